package cis

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// AccountError says that the host has no account for etcd.
type AccountError struct {
	NoUser, NoGroup bool
}

func (e *AccountError) Error() string {
	return fmt.Sprintf("the %s is not there: %s", e.what(), e.ToDo())
}

func (e *AccountError) what() string {
	switch {
	case e.NoUser && e.NoGroup:
		return "user and group " + EtcdUser
	case e.NoUser:
		return "user " + EtcdUser
	}
	return "group " + EtcdUser
}

// ToDo is the command that makes what is missing.
func (e *AccountError) ToDo() string {
	const user = "useradd --system --no-create-home --shell /sbin/nologin --comment 'rke2 etcd'"
	switch {
	case e.NoUser && e.NoGroup:
		return user + " --user-group " + EtcdUser
	case e.NoUser:
		return user + " --gid " + EtcdUser + " " + EtcdUser
	}
	return "groupadd --system " + EtcdUser
}

// Account gives the numbers of etcd's user and group, from the account files of the
// host below root (passwd(5), group(5)). An *AccountError says what is missing.
func Account(root string) (user, group int, err error) {
	user, hasUser, err := number(filepath.Join("/", root, "etc/passwd"))
	if err != nil {
		return 0, 0, err
	}
	group, hasGroup, err := number(filepath.Join("/", root, "etc/group"))
	if err != nil {
		return 0, 0, err
	}
	if !hasUser || !hasGroup {
		return 0, 0, &AccountError{NoUser: !hasUser, NoGroup: !hasGroup}
	}
	return user, group, nil
}

// number finds etcd's line and its third field, which both files have as the id.
func number(file string) (id int, found bool, err error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("looking for the account of etcd: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if fields[0] != EtcdUser || len(fields) < 3 {
			continue
		}
		id, err := strconv.Atoi(fields[2])
		if err != nil || id <= 0 {
			return 0, false, fmt.Errorf("looking for the account of etcd: %s gives %s the id %q: want one above 0", file, EtcdUser, fields[2])
		}
		return id, true, nil
	}
	if err := lines.Err(); err != nil {
		return 0, false, fmt.Errorf("looking for the account of etcd: reading %s: %w", file, err)
	}
	return 0, false, nil
}
