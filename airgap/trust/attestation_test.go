package trust_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/tests/fake"
)

const spdx = "https://spdx.dev/Document"

func attested(b string) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: strings.Repeat(b, 32)} }

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// signer makes a key, and a policy that trusts it alone.
func signer(t testing.TB) (fake.Key, trust.Policy) {
	t.Helper()
	k, err := fake.NewKey()
	noError(t, err)
	pub, err := k.Public()
	noError(t, err)
	key, err := trust.ParseKey(pub, trust.ReleaseSource)
	noError(t, err)
	return k, trust.Policy{ReleaseKeys: []trust.Key{key}}
}

func envelope(t testing.TB, k fake.Key, payloadType string, payload []byte) []byte {
	t.Helper()
	b, err := k.Envelope(payloadType, payload)
	noError(t, err)
	return b
}

// change makes another envelope of one.
func change(t testing.TB, env []byte, fn func(e map[string]any)) []byte {
	t.Helper()
	var e map[string]any
	noError(t, json.Unmarshal(env, &e))
	fn(e)
	b, err := json.Marshal(e)
	noError(t, err)
	return b
}

func TestAttested(t *testing.T) {
	k, policy := signer(t)
	other, _ := signer(t)
	image := attested("ab")
	good := fake.Statement(spdx, `{"a":1}`, image)
	env := envelope(t, k, fake.PayloadType, good)

	att, err := policy.Attested(image, env)
	if err != nil {
		t.Fatal(err)
	}
	if !att.Valid() || att.Statement().PredicateType != spdx || string(att.Statement().Predicate) != `{"a":1}` || att.Key().ID() != policy.ReleaseKeys[0].ID() {
		t.Errorf("%+v", att)
	}
	if (trust.Attested{}).Valid() {
		t.Error("the zero Attested is valid")
	}
	for name, env := range map[string][]byte{
		"in-toto's older version": envelope(t, k, fake.PayloadType, bytes.Replace(good, []byte("Statement/v1"), []byte("Statement/v0.1"), 1)),
		"the other alphabet of base64": change(t, env, func(e map[string]any) {
			e["payload"] = base64.URLEncoding.EncodeToString(good)
		}),
		"a second signature, of another": change(t, env, func(e map[string]any) {
			e["signatures"] = append([]any{map[string]any{"sig": "AAAA", "keyid": "x"}}, e["signatures"].([]any)...)
		}),
		"a wrong hint of the key": change(t, env, func(e map[string]any) {
			e["signatures"].([]any)[0].(map[string]any)["keyid"] = "SHA256:wrong"
		}),
		"several subjects": envelope(t, k, fake.PayloadType, bytes.Replace(good, []byte(`"subject":[`), []byte(`"subject":[{"digest":{"sha512":"x"}},`), 1)),
	} {
		if _, err := policy.Attested(image, env); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	for name, c := range map[string]struct {
		policy trust.Policy
		image  v1.Hash
		env    []byte
		want   string
	}{
		"no policy":         {trust.Policy{}, image, env, "no trusted keys"},
		"off is no pass":    {trust.Policy{Mode: trust.ModeOff}, image, env, "no trusted keys"},
		"another key":       {policy, image, envelope(t, other, fake.PayloadType, good), "not trusted"},
		"no image":          {policy, v1.Hash{}, env, "a sha256 digest is needed"},
		"another image":     {policy, attested("cd"), env, "signature is for another image: release key"},
		"of no image":       {policy, image, envelope(t, k, fake.PayloadType, bytes.Replace(good, []byte("sha256"), []byte("sha512"), 1)), "signed it for no image"},
		"no JSON":           {policy, image, []byte("{"), "no DSSE envelope"},
		"another type":      {policy, image, envelope(t, k, "text/plain", good), `of type "text/plain"`},
		"relabelled":        {policy, image, change(t, envelope(t, k, "text/plain", good), func(e map[string]any) { e["payloadType"] = fake.PayloadType }), "not trusted"},
		"no signature":      {policy, image, change(t, env, func(e map[string]any) { e["signatures"] = []any{} }), "unsigned"},
		"many signatures":   {policy, image, change(t, env, func(e map[string]any) { e["signatures"] = make([]map[string]string, 17) }), "17 signatures"},
		"empty signature":   {policy, image, change(t, env, func(e map[string]any) { e["signatures"] = []any{map[string]any{"sig": ""}} }), "not trusted"},
		"no base64":         {policy, image, change(t, env, func(e map[string]any) { e["payload"] = "%" }), "not base64"},
		"empty payload":     {policy, image, change(t, env, func(e map[string]any) { e["payload"] = "" }), "payload is empty"},
		"changed payload":   {policy, image, change(t, env, func(e map[string]any) { e["payload"] = base64.StdEncoding.EncodeToString(append(good, ' ')) }), "not trusted"},
		"no statement":      {policy, image, envelope(t, k, fake.PayloadType, []byte("hello")), "no in-toto statement"},
		"unknown version":   {policy, image, envelope(t, k, fake.PayloadType, bytes.Replace(good, []byte("Statement/v1"), []byte("Statement/v9"), 1)), "known version"},
		"no predicate":      {policy, image, envelope(t, k, fake.PayloadType, fake.Statement(spdx, "null", image)), "without a predicate"},
		"no predicate type": {policy, image, envelope(t, k, fake.PayloadType, fake.Statement("", "{}", image)), "without a predicate"},
	} {
		if a, err := c.policy.Attested(c.image, c.env); err == nil || !strings.Contains(err.Error(), c.want) || a.Valid() {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}

func TestUnverifiedStatement(t *testing.T) {
	k, _ := signer(t)
	s, err := trust.UnverifiedStatement(envelope(t, k, fake.PayloadType, fake.Statement(spdx, "{}", attested("ab"))))
	if err != nil || s.PredicateType != spdx || !s.About(attested("ab")) || s.About(attested("cd")) {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := trust.UnverifiedStatement([]byte("[]")); err == nil {
		t.Error("an array is a statement")
	}
}

func FuzzAttested(f *testing.F) {
	k, policy := signer(f)
	image := attested("ab")
	f.Add(envelope(f, k, fake.PayloadType, fake.Statement(spdx, "{}", image)))
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"sig":"AA=="}]}`))
	other, _ := signer(f)
	f.Add(envelope(f, other, fake.PayloadType, fake.Statement(spdx, "{}", image)))
	f.Fuzz(func(t *testing.T, env []byte) {
		// Nothing that was not signed for this image passes, whatever the bytes.
		if a, err := policy.Attested(image, env); err == nil && (!a.Valid() || !a.Statement().About(image)) {
			t.Errorf("%+v of %s", a, env)
		}
		_, _ = trust.UnverifiedStatement(env) // must not panic
	})
}
