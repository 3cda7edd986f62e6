package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// configuration is a file for the container runtime and what it is made of.
type configuration struct {
	file      string
	template  string
	variables string // a file, or ""
}

// render gives what the file should be. An error that is not final is a reason to wait.
func (c configuration) render() ([]byte, error) {
	template, err := os.ReadFile(c.template)
	if err != nil {
		return nil, final{fmt.Errorf("reading the template: %w", err)}
	}
	variables := map[string]string{}
	if c.variables != "" {
		text, err := os.ReadFile(c.variables)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is not there", c.variables)
		} else if err != nil {
			return nil, final{err}
		}
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				variables[name] = value
			}
		}
	}
	var missing []string
	text := os.Expand(string(template), func(name string) string {
		value, ok := variables[name]
		if !ok {
			value, ok = os.LookupEnv(name)
		}
		if !ok {
			missing = append(missing, name)
		}
		return value
	})
	if len(missing) > 0 {
		return nil, fmt.Errorf("neither the environment nor %q says %s", c.variables, strings.Join(missing, ", "))
	}
	if err := valid(text); err != nil {
		return nil, final{fmt.Errorf("%s is not a CNI configuration: %w:\n%s", c.template, err, text)}
	}
	return []byte(text), nil
}

// valid holds text to what the CNI specification (version 1, section 1) asks of a list.
func valid(text string) error {
	var list struct {
		CNIVersion string
		Name       string
		Plugins    []struct{ Type string }
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return err
	}
	if list.CNIVersion == "" || list.Name == "" || len(list.Plugins) == 0 {
		return errors.New("it needs cniVersion, name and plugins")
	}
	for _, p := range list.Plugins {
		if p.Type == "" {
			return errors.New("a plugin has no type")
		}
	}
	return nil
}

// write does nothing when the file is that text already.
func (c configuration) write(out io.Writer, text []byte) error {
	if err := sweep(filepath.Dir(c.file)); err != nil {
		return err
	}
	if have, err := os.ReadFile(c.file); err == nil && bytes.Equal(have, text) {
		fmt.Fprintf(out, "%s is up to date\n", c.file)
		return nil
	}
	if err := replace(c.file, bytes.NewReader(text), 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", c.file, err)
	}
	fmt.Fprintf(out, "wrote %s\n", c.file)
	return nil
}

// newer tells why file was not written since.
func newer(file string, since time.Time) error {
	st, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is not there", file)
	case err != nil:
		return final{err}
	case st.ModTime().Before(since.Add(-time.Second)): // file systems' clocks are coarse
		return fmt.Errorf("%s is an old one", file)
	}
	return nil
}
