package manifest

import (
	_ "embed" // of the schema
	"slices"
)

//go:embed rke2-bundle.schema.json
var schema []byte

// Schema is the JSON Schema (draft 2020-12) of rke2-bundle.yaml, for editors. It is
// generated from this package's types.
func Schema() []byte { return slices.Clone(schema) }
