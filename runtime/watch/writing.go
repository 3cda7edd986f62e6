package watch

import (
	"errors"

	"golang.org/x/sys/unix"
)

// openForWriting tells whether any process has a file open for writing; known is false
// where the file system can't say. The kernel grants a read lease (fcntl(2)) only on
// files that nobody writes to.
func openForWriting(path string) (writing, known bool) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, false
	}
	defer func() { _ = unix.Close(fd) }()
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	switch {
	case err == nil:
		// Whoever opens it for writing from here on waits until this is back.
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
		return false, true
	case errors.Is(err, unix.EAGAIN):
		return true, true
	}
	return false, false
}
