package config

import (
	"reflect"
	"slices"
)

// restartFields are part of an agent's identity, or held open by it: they take
// effect at its next start. A restart takes nothing away (the kernel keeps the
// VIPs, HAProxy goes on).
func restartFields() []string {
	return []string{
		"kubeconfig", "node", "namespace", "runDir", "stateDir", "log.format", "metrics.bind",
	}
}

// Changed returns the fields, as dotted paths in the file's order, in which c
// differs from old.
func (c Config) Changed(old Config) []string {
	return differ(reflect.ValueOf(c), reflect.ValueOf(old), "")
}

// NeedsRestart returns those of Changed that take effect only at the agent's
// next start; all others are applied to the running agent.
func (c Config) NeedsRestart(old Config) []string {
	return slices.DeleteFunc(c.Changed(old), func(path string) bool {
		return !slices.Contains(restartFields(), path)
	})
}

// differ walks two structs side by side.
func differ(a, b reflect.Value, prefix string) []string {
	var out []string
	for i := range a.NumField() {
		path := prefix + a.Type().Field(i).Tag.Get("yaml")
		x, y := a.Field(i), b.Field(i)
		switch {
		case x.Kind() == reflect.Struct && len(names(x.Type())) > 0:
			out = append(out, differ(x, y, path+".")...)
		case x.Kind() == reflect.Slice && x.Len() == 0 && y.Len() == 0:
			// nil and empty mean the same
		case !reflect.DeepEqual(x.Interface(), y.Interface()):
			out = append(out, path)
		}
	}
	return out
}
