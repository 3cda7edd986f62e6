//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rancher/rke2/tests/fake"
	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// killings is how many seeds TestKillings runs, unless RKE2_TEST_SEEDS says otherwise
// ("20", or "7-9"). Four kill each program once; twelve are every program in every phase.
const killings = 4

// TestKillings kills one program after the other, without warning, at random moments,
// while a counter is written through the API; and starts the node again where it ended.
// Each time it is Ready again within a limit, no write that was acknowledged is lost, and
// nothing half-written is left. What a seed does is in its name and in the figures.
func TestKillings(t *testing.T) {
	p := products(t)
	first, last := seeds(t)
	n := newNode(t, node.Options{Name: "killed", Binary: p.Binary, Bundles: []string{p.Bundle}, Plugins: plugins(t, p)})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), bootLimit+time.Duration(last-first+1)*stepLimit)
	defer cancel()
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
	counter := newCounter(ctx, t, n)
	for seed := first; seed <= last; seed++ {
		k := newKilling(seed)
		if !t.Run(fmt.Sprintf("seed %d: %s during %s", seed, k.victim, k.phase), func(t *testing.T) { k.run(ctx, t, n, counter) }) {
			t.Fatalf("seed %d failed: what comes after it stands on it", seed)
		}
	}
}

// seeds are those to run: the first and the last.
func seeds(t *testing.T) (first, last uint64) {
	t.Helper()
	text := os.Getenv("RKE2_TEST_SEEDS")
	if text == "" {
		return 1, killings
	}
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		from, to = "1", text
	}
	first, err1 := strconv.ParseUint(from, 10, 32)
	last, err2 := strconv.ParseUint(to, 10, 32)
	if err := errors.Join(err1, err2); err != nil || first > last {
		t.Fatalf("RKE2_TEST_SEEDS=%q: want a count or FIRST-LAST", text)
	}
	return first, last
}

// The programs that are killed, and when. Any twelve seeds in a row are all pairs.
var (
	victims = []string{"rke2", "containerd", "kubelet", "etcd"}
	phases  = []string{"boot", "import", "steady state"}
)

// killing is what one seed does.
type killing struct {
	seed          uint64
	victim, phase string
	random        *rand.Rand
}

func newKilling(seed uint64) killing {
	return killing{
		seed: seed, victim: victims[seed%4], phase: phases[seed%3],
		random: rand.New(rand.NewPCG(seed, 0)),
	}
}

func (k killing) run(ctx context.Context, t *testing.T, n *node.Node, counter *counter) {
	moment := k.approach(ctx, t, n)
	if k.victim == "kubelet" {
		node.NextSecond()
	}
	killed := time.Now()
	k.kill(ctx, t, n)
	happened, since := "rke2 went on", killed
	again := func() {
		happened = "rke2 ended"
		if words := n.LastError(); words != "" {
			happened += ", saying " + strings.SplitN(words, "\n", 2)[0]
		}
		node.NextSecond()
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
		since = n.Started()
	}
	if k.victim == "rke2" || k.victim == "containerd" {
		if err := n.Wait(ctx, stopLimit); err == nil {
			t.Errorf("rke2 ended as if all were well after %s was killed", k.victim)
		}
		again()
	}
	err := k.recovered(ctx, n, counter, since)
	if err != nil && ended(n) {
		// As systemd would. It ends when it could not speak with the API server for a
		// minute: a kubelet that was about to register etcd's pod waits as long before it
		// starts etcd again.
		again()
		err = k.recovered(ctx, n, counter, since)
	}
	if err != nil {
		t.Fatal(err)
	}
	if ended(n) {
		t.Fatalf("rke2 has ended:\n%s", n.LastWords())
	}
	took := time.Since(killed)
	counter.check(ctx, t)
	if k.phase == "import" {
		k.imported(ctx, t, n)
	}
	report(t, fmt.Sprintf("seed %d: killed %s %s; %s; Ready again, all writes there", k.seed, k.victim, moment, happened), took)
}

// recovered waits until the node is as it was.
func (k killing) recovered(ctx context.Context, n *node.Node, counter *counter, since time.Time) error {
	if err := n.WaitAPI(ctx, stepLimit); err != nil {
		return err
	}
	// What the API server says by itself may be older than the killing of etcd.
	err := sealed.Wait(ctx, "a write after the killing", stepLimit, func(context.Context) error {
		switch {
		case ended(n):
			return sealed.Hopeless(errors.New("rke2 has ended"))
		case counter.last().Before(since.Add(time.Second)):
			return errors.New("none was acknowledged")
		}
		return nil
	})
	if err != nil {
		return err
	}
	if k.victim != "etcd" { // else the kubelet has nothing new to say
		if err := n.ReadySince(ctx, since, stepLimit); err != nil {
			return err
		}
	}
	return n.WaitControlPlane(ctx, stepLimit)
}

func ended(n *node.Node) bool {
	select {
	case <-n.Exited():
		return true
	default:
		return false
	}
}

// approach brings the node to the moment, and says which it is.
func (k killing) approach(ctx context.Context, t *testing.T, n *node.Node) string {
	within := func(most time.Duration) time.Duration { return time.Duration(k.random.Int64N(int64(most))) }
	if k.phase == "steady state" {
		pause := within(3 * time.Second)
		time.Sleep(pause)
		return fmt.Sprintf("%.1f s into steady state", pause.Seconds())
	}
	after := "a start beside running pods"
	pause := within(5 * time.Second)
	switch {
	case k.phase == "import":
		k.dropBundle(t, n)
		fallthrough
	case k.random.IntN(2) == 0:
		if err := n.Stop(ctx, stopLimit); err != nil {
			t.Fatal(err)
		}
	default:
		after = "a start after a power cut"
		pause = within(10 * time.Second)
		if err := n.Reboot(ctx); err != nil {
			t.Fatal(err)
		}
	}
	node.NextSecond()
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if k.phase == "import" {
		catch(ctx, t, n, "while images are imported", content+"/ingest/*/data")
		after, pause = "the import of a new bundle", within(400*time.Millisecond)
	}
	time.Sleep(pause)
	return fmt.Sprintf("%.1f s into %s", pause.Seconds(), after)
}

// kill ends all processes of the victim, waiting for there to be one.
func (k killing) kill(ctx context.Context, t *testing.T, n *node.Node) {
	for deadline := time.Now().Add(stepLimit); time.Now().Before(deadline) && ctx.Err() == nil; {
		found, err := n.Find(k.victim)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range found {
			if err := syscall.Kill(p.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
		}
		if len(found) > 0 {
			return
		}
		select {
		case <-n.Exited():
			t.Fatalf("rke2 ended before %s was killed:\n%s", k.victim, n.LastWords())
		case <-time.After(5 * time.Millisecond):
		}
	}
	t.Fatalf("there is no %s to kill", k.victim)
}

func (k killing) reference() string { return fmt.Sprintf("registry.example/site/bulk:%d", k.seed) }

// dropBundle puts a new bundle into the node's images folder, in the place of the one of
// an earlier seed. It is large enough to be caught at.
func (k killing) dropBundle(t *testing.T, n *node.Node) {
	var bulk fake.Bulk
	const size = 16 << 20
	if err := bulk.Add(k.reference(), runtime.GOARCH, size, k.seed*10, k.seed*10+1, k.seed*10+2, k.seed*10+3, k.seed*10+4, k.seed*10+5); err != nil {
		t.Fatal(err)
	}
	beside := n.Path(node.DataDir + "/agent/site-bulk.part")
	if err := bulk.WriteBundle(t.Context(), beside, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(beside, n.Path(node.ImagesDir+"/site-bulk.tar")); err != nil {
		t.Fatal(err)
	}
}

// imported waits until the new bundle's image is whole in containerd, and looks for
// leftovers of the import that was cut short.
func (k killing) imported(ctx context.Context, t *testing.T, n *node.Node) {
	err := sealed.Wait(ctx, "the image of the new bundle", stepLimit, func(ctx context.Context) error {
		out, err := n.Command(ctx, "ctr", "-a", containerdSocket, "-n", "k8s.io", "images", "check", "name=="+k.reference()).Output()
		if err == nil && !strings.Contains(string(out), "complete (") {
			err = fmt.Errorf("containerd says:\n%s", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = sealed.Wait(ctx, "nothing to be left of the import that was cut short", stepLimit, func(context.Context) error {
		found, err := filepath.Glob(n.Path(content + "/ingest/*"))
		if err == nil && len(found) > 0 {
			err = fmt.Errorf("there is %s", found)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// counter is a number in the API, which goes up as fast as the API server takes it.
type counter struct {
	node *node.Node

	mu           sync.Mutex
	acknowledged int
	at           time.Time // when the last of them was sent
}

// last is when the last write that was acknowledged was sent.
func (c *counter) last() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

const counterName = "counter"

// newCounter makes the counter and counts until the test ends.
func newCounter(ctx context.Context, t *testing.T, n *node.Node) *counter {
	t.Helper()
	c := &counter{node: n}
	client, err := n.Client()
	if err != nil {
		t.Fatal(err)
	}
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: counterName}, Data: map[string]string{"n": "0"}}
	if _, err := client.CoreV1().ConfigMaps("default").Create(ctx, object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(ctx)
	var counting sync.WaitGroup
	counting.Go(func() {
		for number := 1; ctx.Err() == nil; number++ {
			sent, patch := time.Now(), fmt.Sprintf(`{"data":{"n":"%d"}}`, number)
			_, err := client.CoreV1().ConfigMaps("default").Patch(ctx, counterName, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			if err == nil {
				c.mu.Lock()
				c.acknowledged, c.at = number, sent
				c.mu.Unlock()
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() {
		stop()
		counting.Wait()
	})
	return c
}

// check reads the counter: it must not be behind what was acknowledged before, and go on.
func (c *counter) check(ctx context.Context, t *testing.T) {
	t.Helper()
	read := func() int {
		c.mu.Lock()
		before := c.acknowledged
		c.mu.Unlock()
		client, err := c.node.Client()
		if err != nil {
			t.Fatal(err)
		}
		object, err := client.CoreV1().ConfigMaps("default").Get(ctx, counterName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		number, err := strconv.Atoi(object.Data["n"])
		if err != nil || number < before {
			t.Fatalf("the counter is %q (%v), but %d was acknowledged", object.Data["n"], err, before)
		}
		return number
	}
	was := read()
	err := sealed.Wait(ctx, "the counter to go on", stepLimit, func(context.Context) error {
		if is := read(); is <= was {
			return fmt.Errorf("it is still %d", is)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestKillingsCoverAll: any twelve seeds are every program in every phase, and the four
// that always run are every program.
func TestKillingsCoverAll(t *testing.T) {
	pairs, programs := map[string]bool{}, map[string]bool{}
	for seed := uint64(1); seed <= 12; seed++ {
		k := newKilling(seed)
		pairs[k.victim+" "+k.phase] = true
		if seed <= killings {
			programs[k.victim] = true
		}
	}
	if len(pairs) != len(victims)*len(phases) || len(programs) != len(victims) {
		t.Errorf("%d pairs, %d programs", len(pairs), len(programs))
	}
}
