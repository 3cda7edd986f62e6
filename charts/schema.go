package charts

import (
	"errors"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
)

// checkSchemas holds the values against values.schema.json of the chart and of its
// subcharts, as Helm does, but reads no schema from elsewhere: a chart whose schema is
// in several places is not checked.
func checkSchemas(ch *chart.Chart, values map[string]any) error {
	if ch.Schema != nil {
		err := checkSchema(ch.Schema, values)
		var elsewhere *jsonschema.LoadURLError
		if err != nil && !errors.As(err, &elsewhere) {
			return fmt.Errorf("the values are not what the schema of chart %s asks for: %w", ch.Name(), err)
		}
	}
	for _, sub := range ch.Dependencies() {
		if v, ok := values[sub.Name()].(map[string]any); ok {
			if err := checkSchemas(sub, v); err != nil {
				return err
			}
		}
	}
	return nil
}

type noLoader struct{}

func (noLoader) Load(url string) (any, error) { return nil, fmt.Errorf("%s is elsewhere", url) }

func checkSchema(schema []byte, values map[string]any) error {
	const here = "file:///values.schema.json"
	parsed, err := jsonschema.UnmarshalJSON(strings.NewReader(string(schema)))
	if err != nil {
		return err
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	if err := c.AddResource(here, parsed); err != nil {
		return err
	}
	compiled, err := c.Compile(here)
	if err != nil {
		return err
	}
	return compiled.Validate(plain(values))
}

// plain is a value without Helm's own map type, which the validator does not know.
func plain(v any) any {
	switch v := v.(type) {
	case chartutil.Values:
		return plain(map[string]any(v))
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = plain(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = plain(e)
		}
		return out
	}
	return v
}
