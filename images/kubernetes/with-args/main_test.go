package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is the program that with-args runs, when this is set: what it is to do.
const actVar = "WITH_ARGS_TEST_ACT"

func TestMain(m *testing.M) {
	switch act := os.Getenv(actVar); {
	case act == "":
		os.Exit(m.Run())
	case act == "args":
		fmt.Println(strings.Join(os.Args[1:], "|"))
	case strings.HasPrefix(act, "exit "):
		code, err := strconv.Atoi(strings.TrimPrefix(act, "exit "))
		if err != nil {
			panic(err)
		}
		os.Exit(code)
	case act == "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case act == "stay", act == "stubborn":
		got := make(chan os.Signal, 4)
		signal.Notify(got, syscall.SIGTERM, syscall.SIGHUP)
		fmt.Println("up")
		for s := range got {
			fmt.Println("got", s)
			if s == syscall.SIGTERM && act == "stay" {
				os.Exit(3)
			}
		}
	}
}

// log is written to by the program and by with-args, and read by the test.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *log) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(l.String(), text); {
		if time.Now().After(deadline) {
			t.Fatalf("%q was not said; this was:\n%s", text, l)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// start runs with-args beside the test, with the test's own binary as the program.
func start(t *testing.T, act, file string, args ...string) (out *log, signals chan<- os.Signal, code <-chan int) {
	t.Helper()
	t.Setenv(actVar, act)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s, c := make(chan os.Signal, 4), make(chan int, 1)
	out = &log{}
	r := runner{poll: 10 * time.Millisecond, grace: 100 * time.Millisecond, signals: s, out: out, err: out}
	go func() { c <- r.main(append([]string{file, "--", self}, args...)) }()
	return out, s, c
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, code <-chan int, want int, out *log) {
	t.Helper()
	select {
	case got := <-code:
		if got != want {
			t.Errorf("exit code %d, want %d; said:\n%s", got, want, out)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("with-args did not end; said:\n%s", out)
	}
}

func TestArgumentsOfTheFileComeLast(t *testing.T) {
	file := filepath.Join(t.TempDir(), "args")
	out, _, code := start(t, "args", file, "--v=1")
	out.await(t, "waiting for "+file)
	write(t, file, "--a=b c\n\n--d=\"e\"\r\nlast")
	wantCode(t, code, 0, out)
	out.await(t, "--v=1|--a=b c|--d=\"e\"|last\n")
}

func TestExitCodeIsTheProgramsOwn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "args")
	write(t, file, "")
	for act, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill": 128 + 9} {
		out, _, code := start(t, act, file)
		wantCode(t, code, want, out)
	}
}

func TestSignalsAreHandedOn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "args")
	write(t, file, "")
	out, signals, code := start(t, "stay", file)
	out.await(t, "up")
	signals <- syscall.SIGHUP
	out.await(t, "got hangup")
	signals <- syscall.SIGTERM
	wantCode(t, code, 3, out)
}

func TestEndsTheProgramWhenTheFileIsAnother(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, file string){
		"changed": func(t *testing.T, file string) { write(t, file, "--b\n") },
		"removed": func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, act := range []string{"stay", "stubborn"} {
			t.Run(name+" "+act, func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "args")
				write(t, file, "--a\n")
				out, _, code := start(t, act, file)
				out.await(t, "up")
				write(t, file, "--a\n") // replaced by the same: nothing happens
				time.Sleep(50 * time.Millisecond)
				if strings.Contains(out.String(), "got") {
					t.Fatalf("the program was ended though nothing had changed:\n%s", out)
				}
				change(t, file)
				wantCode(t, code, 0, out)
				out.await(t, "got terminated")
				out.await(t, name+": ending")
			})
		}
	}
}

func TestASignalEndsTheWait(t *testing.T) {
	out, signals, code := start(t, "args", filepath.Join(t.TempDir(), "never"))
	out.await(t, "waiting")
	signals <- syscall.SIGHUP // not one that ends
	signals <- syscall.SIGTERM
	wantCode(t, code, 0, out)
}

func TestSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "args")
	write(t, file, "")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "Usage: with-args"},
		{[]string{file, "program"}, 2, "Usage: with-args"},
		{[]string{file, "--"}, 2, "Usage: with-args"},
		{[]string{"--help"}, 0, "Usage: with-args"},
		{[]string{dir, "--", "true"}, 1, "is a directory"},
		{[]string{file, "--", filepath.Join(dir, "none")}, 1, "starting " + filepath.Join(dir, "none")},
	} {
		out := &log{}
		if code := (runner{poll: time.Millisecond, out: out, err: out}).main(c.args); code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%q: exit code %d, %q, want %d and %q", c.args, code, out, c.code, c.says)
		}
	}
}

func TestLines(t *testing.T) {
	got := lines([]byte("--a=1\r\n\n  --b\n--c"))
	if want := []string{"--a=1", "  --b", "--c"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
