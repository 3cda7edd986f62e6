package trust

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// indexOf is an image index of manifests.
func indexOf(t *testing.T, manifests ...v1.Hash) Index {
	t.Helper()
	idx := v1.IndexManifest{SchemaVersion: 2}
	for _, m := range manifests {
		idx.Manifests = append(idx.Manifests, v1.Descriptor{Digest: m, Size: 1})
	}
	raw, err := json.Marshal(idx)
	if err != nil {
		t.Fatal(err)
	}
	return Index{Raw: raw}
}

func TestAdmitOfAnIndex(t *testing.T) {
	release, stranger := ecdsaSigner(t), ecdsaSigner(t)
	policy := Policy{Mode: ModeAll, ReleaseKeys: []Key{release.key(t, ReleaseSource)}}
	pinned := Policy{Mode: ModeSystem, ReleaseKeys: policy.ReleaseKeys, Pins: map[string][]v1.Hash{runtime: {other}}}
	of := indexOf(t, other, good)
	signedBy := func(s signer, of Index, about v1.Hash) Index {
		of.Signatures = []Signature{s.sign(t, body(repo, about, map[string]any{ClaimTag: tag}))}
		return of
	}
	ref, err := name.NewTag(runtime)
	if err != nil {
		t.Fatal(err)
	}
	digestOf := func(h v1.Hash) name.Digest {
		d, err := name.NewDigest(repo + "@" + h.String())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	own := []Signature{release.sign(t, body(repo, good, map[string]any{ClaimTag: tag}))}
	for _, c := range []struct {
		what   string
		policy Policy
		named  *v1.Hash // by this digest, else by tag
		sigs   []Signature
		of     Index
		reason Reason // empty: admitted
	}{
		{"the index is signed", policy, nil, nil, signedBy(release, of, of.digest()), ""},
		{"the manifest is signed", policy, nil, own, of, ""},
		{"a stranger signed the index", policy, nil, nil, signedBy(stranger, of, of.digest()), ReasonWrongKey},
		{"the signature is of another index", policy, nil, nil, signedBy(release, of, indexOf(t, good).digest()), ReasonWrongDigest},
		{"the index does not list it", policy, nil, nil, signedBy(release, indexOf(t, other), indexOf(t, other).digest()), ReasonMalformed},
		{"not even with a signature of its own", policy, nil, own, indexOf(t, other), ReasonMalformed},
		{"signatures of no index", policy, nil, nil, Index{Signatures: []Signature{release.sign(t, body(repo, Index{}.digest(), nil))}}, ReasonUnsigned},
		{"the release pins another", pinned, nil, nil, signedBy(release, of, of.digest()), ReasonPinned},
		{"by the manifest's digest", policy, &good, own, Index{}, ""},
		{"by the index's digest", policy, ptr(of.digest()), nil, signedBy(release, of, of.digest()), ""},
		{"by the digest of something else", policy, &other, own, of, ReasonWrongDigest},
		{"by digest, unsigned", policy, &good, nil, Index{}, ReasonUnsigned},
		{"by digest, unsigned, of a system repository", pinned, &good, nil, Index{}, ReasonUnsigned},
		{"by digest, signed, of a system repository", pinned, &good, own, Index{}, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			adm, err := c.policy.AdmitOf(ref, good, c.sigs, c.of)
			want := runtime
			if c.named != nil {
				adm, err = c.policy.AdmitDigest(digestOf(*c.named), good, c.sigs, c.of)
				want = repo + "@" + c.named.String()
			}
			var refused *RefusedError
			switch {
			case c.reason == "" && (err != nil || !adm.Valid() || adm.Digest() != good || adm.Name() != want || adm.Repository().RepositoryStr() != ref.RepositoryStr()):
				t.Errorf("%+v, %v", adm, err)
			case c.reason != "" && (!errors.As(err, &refused) || refused.Reason != c.reason || adm.Valid()):
				t.Errorf("want %s: %+v, %v", c.reason, adm, err)
			}
		})
	}
}

func ptr(h v1.Hash) *v1.Hash { return &h }
