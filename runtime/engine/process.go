package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"
)

// process is one child of the node.
type process struct {
	name    string
	path    string
	args    []string
	env     []string // nil for this process's environment without systemd's socket
	logFile string   // rotated; 50 MB each, 3 kept
	log     *slog.Logger
}

// stopGrace is how long a child may take after SIGTERM before SIGKILL.
const stopGrace = 10 * time.Second

// run starts the child and returns when it ended: nil when ctx ended it.
func (p process) run(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(p.logFile), 0o755); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	out := &lumberjack.Logger{Filename: p.logFile, MaxSize: 50, MaxBackups: 3, MaxAge: 28, Compress: true}
	defer func() { _ = out.Close() }()
	last := &tail{max: 2048}
	cmd := exec.CommandContext(ctx, p.path, p.args...)
	cmd.Stdout = io.MultiWriter(out, last)
	cmd.Stderr = cmd.Stdout
	cmd.Env = p.env
	if cmd.Env == nil {
		cmd.Env = childEnv(os.Environ())
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	// If rke2 is killed, the child must not live on beside its successor. The
	// kernel ties the signal to the thread that forks, so that one must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	p.log.Info("starting "+p.name, "path", p.path, "log", p.logFile)
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = errors.New("it exited by itself with status 0")
	}
	return fmt.Errorf("%s exited: %w (log: %s; its last words: %s)", p.name, err, p.logFile, last.line())
}

// keep runs the child until ctx ends, starting it again when it exits: at once
// the first time, then after growing pauses while it does not stay up.
func (p process) keep(ctx context.Context) {
	const stable, longest = 30 * time.Second, 15 * time.Second
	var pause time.Duration
	for {
		started := time.Now()
		err := p.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(started) > stable {
			pause = 0
		}
		p.log.Error("restarting "+p.name, "error", err, "pause", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(max(2*pause, time.Second), longest)
	}
}

// childEnv passes the environment on, without what is meant for this process.
func childEnv(environ []string) []string {
	var env []string
	for _, pair := range environ {
		name, _, _ := strings.Cut(pair, "=")
		if name == "NOTIFY_SOCKET" || strings.HasPrefix(name, "RKE2_") {
			continue
		}
		env = append(env, pair)
	}
	return env
}

// tail keeps the end of what is written to it.
type tail struct {
	max int
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.max; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) line() string {
	lines := strings.Split(strings.TrimSpace(string(t.buf)), "\n")
	return lines[len(lines)-1]
}
