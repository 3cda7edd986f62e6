package statement

import (
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

var digest = v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("ab", 32)}

func TestEncode(t *testing.T) {
	data, err := Encode(SPDX, "docker.io/rancher/x", digest.String(), []byte(`{ "a": "<&>" }`))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"docker.io/rancher/x","digest":{"sha256":"` + digest.Hex +
		`"}}],"predicateType":"https://spdx.dev/Document","predicate":{"a":"<&>"}}`
	if string(data) != want {
		t.Errorf("%s\nwant\n%s", data, want)
	}
	var s intoto.Statement
	if err := protojson.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Errorf("in-toto's library: %v", err)
	}
	back, err := Decode(data)
	if err != nil || back.Subject[0].Digest["sha256"] != digest.Hex || string(back.Predicate) != `{"a":"<&>"}` {
		t.Errorf("read back: %+v, %v", back, err)
	}
}

func TestRefuses(t *testing.T) {
	for _, c := range []struct{ repository, digest, predicate, want string }{
		{"x", "latest", "{}", "no sha256 digest"},
		{"x", "sha512:" + strings.Repeat("ab", 64), "{}", "no sha256 digest"},
		{"", digest.String(), "{}", "has no name"},
		{"x", digest.String(), "{", "unexpected end"},
	} {
		if _, err := Encode(SPDX, c.repository, c.digest, []byte(c.predicate)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, bad := range []string{"", "[]", `{"_type":"x"}`, `{"_type":"` + Type + `","predicateType":"x","predicate":{}}`, `{"_type":"` + Type + `","subject":[{}],"predicate":{}}`} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}
