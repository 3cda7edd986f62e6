package debian

import "strings"

// Compare orders two Debian versions as dpkg does (Debian policy 5.6.12): negative when
// a is older than b, 0 when they are the same, positive when a is newer.
func Compare(a, b string) int {
	aEpoch, aRest := epoch(a)
	bEpoch, bRest := epoch(b)
	if c := compareNumbers(aEpoch, bEpoch); c != 0 {
		return c
	}
	aUpstream, aRevision := revision(aRest)
	bUpstream, bRevision := revision(bRest)
	if c := compareParts(aUpstream, bUpstream); c != 0 {
		return c
	}
	return compareParts(aRevision, bRevision)
}

func epoch(v string) (epoch, rest string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		return e, rest
	}
	return "0", v
}

func revision(v string) (upstream, revision string) {
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return v[:i], v[i+1:]
	}
	return v, ""
}

// compareParts compares runs of non-digits and of digits in turn.
func compareParts(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a = span(a, false)
		y, b = span(b, false)
		if c := compareText(x, y); c != 0 {
			return c
		}
		x, a = span(a, true)
		y, b = span(b, true)
		if c := compareNumbers(x, y); c != 0 {
			return c
		}
	}
	return 0
}

func span(s string, digits bool) (run, rest string) {
	i := 0
	for i < len(s) && isDigit(s[i]) == digits {
		i++
	}
	return s[:i], s[i:]
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// compareText compares by dpkg's order: ~ before the end, the end before letters,
// letters before everything else.
func compareText(a, b string) int {
	for i := 0; i < len(a) || i < len(b); i++ {
		x, y := 0, 0
		if i < len(a) {
			x = order(a[i])
		}
		if i < len(b) {
			y = order(b[i])
		}
		if x != y {
			return x - y
		}
	}
	return 0
}

func order(c byte) int {
	switch {
	case c == '~':
		return -1
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		return int(c)
	default:
		return int(c) + 256
	}
}

// compareNumbers compares digits of any length.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}
