package timeline

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ProcessStarted is when this process began, which is before its first line of Go ran:
// proc(5), /proc/self/stat, field 22. It is now if that can't be read.
func ProcessStarted() time.Time {
	now := time.Now()
	raw, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return now
	}
	age, err := processAge(raw)
	if err != nil || age < 0 {
		return now
	}
	return now.Add(-age)
}

func processAge(stat []byte) (time.Duration, error) {
	// The name in parentheses may hold anything; fields are counted from its end.
	const startTime, ticksPerSecond = 22 - 3, 100
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= startTime {
		return 0, fmt.Errorf("/proc/self/stat has %d fields", len(fields))
	}
	ticks, err := strconv.ParseInt(string(fields[startTime]), 10, 64)
	if err != nil {
		return 0, err
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return 0, err
	}
	return time.Duration(up.Nano()) - time.Duration(ticks)*(time.Second/ticksPerSecond), nil
}
