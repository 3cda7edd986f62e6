// Package bench measures against named peers: both do the same work in the same run, one
// after the other, and what is reported is how many times the peer's time ours is
// ("ratio", by the clock; "cpu-ratio", of both cores' time). Below 1 is faster. It is run
// by hand (make bench) and fails only when something can't be measured: times are no test.
//
// What is compared, and how hard each side compresses, is said at each benchmark.
package bench
