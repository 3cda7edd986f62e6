package debian

import (
	"errors"
	"os/exec"
	"testing"
)

// In ascending order; those of one line are the same.
var ordered = [][]string{
	{"0~~", "0:0~~"},
	{"0~"},
	{"", "0", "00", "0:0"},
	{"0a"},
	{"0+"},
	{"1.0~rc1-1"},
	{"1.0~rc1-1+b1"},
	{"1.0~rc2-1"},
	{"1.0", "1.0-0", "1.00"},
	{"1.0-1~deb12u1"},
	{"1.0-1", "1.0-01"},
	{"1.0-1ubuntu1"},
	{"1.0-1+b1"},
	{"1.0-1+b2"},
	{"1.0-1.1"},
	{"1.0a-1"},
	{"1.0+dfsg-1"},
	{"1.0.1-1"},
	{"1.2-3-1"},
	{"1.2.3-1"},
	{"1.8.9-2"},
	{"1.8.10-1"},
	{"2.36-9+deb12u9"},
	{"2.36-9+deb12u10"},
	{"20221128-1"},
	{"99999999999999999999999999-1"},
	{"100000000000000000000000000-1"},
	{"1:1.4.7-1"},
	{"1:1.4.7-1+b2"},
	{"2:0"},
	{"10:0"},
}

func TestCompare(t *testing.T) {
	for i, x := range ordered {
		for j, y := range ordered {
			for _, a := range x {
				for _, b := range y {
					if got := sign(Compare(a, b)); got != sign(i-j) {
						t.Errorf("Compare(%q, %q) = %d, want %d", a, b, got, sign(i-j))
					}
				}
			}
		}
	}
}

// dpkg is the reference.
func TestCompareAsDpkg(t *testing.T) {
	dpkg, err := exec.LookPath("dpkg")
	if err != nil {
		t.Skip("dpkg is not installed here: TestCompare holds the same order")
	}
	for i, x := range ordered {
		for _, j := range []int{i, i + 1, i + 7} {
			if j >= len(ordered) || x[0] == "" || ordered[j][0] == "" {
				continue
			}
			a, b := x[len(x)-1], ordered[j][0]
			err := exec.Command(dpkg, "--compare-versions", a, "lt", b).Run()
			var exit *exec.ExitError
			if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
				t.Fatalf("dpkg --compare-versions %s lt %s: %v", a, b, err)
			}
			if dpkgSays := err == nil; dpkgSays != (Compare(a, b) < 0) {
				t.Errorf("Compare(%q, %q) = %d, but dpkg says older: %v", a, b, Compare(a, b), dpkgSays)
			}
		}
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func FuzzCompare(f *testing.F) {
	for _, x := range ordered {
		f.Add(x[0], x[len(x)-1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if sign(Compare(a, b)) != -sign(Compare(b, a)) {
			t.Errorf("%q and %q have no order", a, b)
		}
	})
}
