package debian

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds on what one paragraph may be. The largest in bookworm is a tenth of it.
const (
	maxLine      = 1 << 20
	maxParagraph = 8 << 20
)

// paragraph is one stanza of a control file (deb-control(5)): values by field name in
// lower case. Continuation lines are joined by newlines, without their first space.
type paragraph map[string]string

// paragraphs calls each for every paragraph of r. Only the wanted fields are kept; none
// means all.
func paragraphs(r io.Reader, wanted map[string]bool, each func(paragraph) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), maxLine)
	p, last, line, size := paragraph{}, "", 0, 0
	end := func() error {
		if len(p) == 0 {
			return nil
		}
		done := p
		p, last, size = paragraph{}, "", 0
		return each(done)
	}
	for sc.Scan() {
		line++
		text := strings.TrimRight(sc.Text(), "\r \t")
		if size += len(text); size > maxParagraph {
			return fmt.Errorf("line %d: a paragraph of more than %d bytes", line, maxParagraph)
		}
		switch {
		case text == "":
			if err := end(); err != nil {
				return err
			}
		case text[0] == '#':
		case text[0] == ' ' || text[0] == '\t':
			if last == "" {
				return fmt.Errorf("line %d: continues no field", line)
			}
			if _, ok := p[last]; ok {
				p[last] += "\n" + text[1:]
			}
		default:
			k, v, ok := strings.Cut(text, ":")
			if !ok || k == "" || strings.ContainsAny(k, " \t") {
				return fmt.Errorf("line %d: %.40q is no field", line, text)
			}
			last = strings.ToLower(k)
			if _, ok := p[last]; ok {
				return fmt.Errorf("line %d: field %s is there twice", line, k)
			}
			if wanted == nil || wanted[last] {
				p[last] = strings.TrimLeft(v, " \t")
			}
		}
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return fmt.Errorf("line %d: more than %d bytes", line+1, maxLine)
		}
		return err
	}
	return end()
}
