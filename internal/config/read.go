package config

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// yamlLine finds the line number in a syntax error of the YAML library.
var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// read fills r from YAML text and notes what does not fit. It returns false if
// there is nothing to judge.
func read(p *problems, data []byte, r *raw) bool {
	if len(data) > maxFile {
		p.add(0, "", "is larger than %d bytes; this cannot be the right file", maxFile)
		return false
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && isNull(content(&doc)) {
		p.add(0, "", "is empty; the shortest complete file is:\n%s", minimal)
		return false
	}
	if err != nil {
		syntax(p, err)
		return false
	}
	fill(p, content(&doc), "", reflect.ValueOf(r).Elem())
	var more yaml.Node
	if err := dec.Decode(&more); err == nil {
		p.add(more.Line, "", "a second document begins here; keep only one")
	} else if !errors.Is(err, io.EOF) {
		syntax(p, err)
	}
	return true
}

// content is the value of a document.
func content(doc *yaml.Node) *yaml.Node {
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		return doc.Content[0]
	}
	return doc
}

// isNull says that nothing stands there.
func isNull(n *yaml.Node) bool {
	return n.Kind == 0 || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// syntax notes an error of the YAML library.
func syntax(p *problems, err error) {
	line, text := 0, err.Error()
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1]) // 0 when there is none
		text = m[2]
	}
	p.add(line, "", "not valid YAML: %s; look at the indentation and quotes of this line and the one before", text)
}

// fill copies a mapping into a struct of text, texts and such structs.
func fill(p *problems, n *yaml.Node, prefix string, into reflect.Value) {
	if isNull(n) {
		return
	}
	where := strings.TrimSuffix(prefix, ".")
	// The nodes are walked by hand, because the library's own strict decoding
	// names neither the field's path nor what it should have been.
	if n.Kind != yaml.MappingNode {
		p.add(n.Line, where, "is %s; write fields below it, one \"name: value\" a line", kindName(n))
		return
	}
	known := names(into.Type())
	first := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		path := prefix + key.Value
		index := indexOf(known, key)
		switch line, twice := first[key.Value]; {
		case index < 0:
			p.add(key.Line, path, "unknown field; %s", suggest(key.Value, prefix, known))
			continue
		case twice:
			p.add(key.Line, path, "is already set in line %d; keep one of them", line)
			continue
		}
		first[key.Value] = key.Line
		fillField(p, value, path, into.Field(index))
	}
}

// indexOf finds a field by its key, -1 for none.
// A key that is itself a mapping or a list is nobody's name.
func indexOf(known []string, key *yaml.Node) int {
	for i, k := range known {
		if key.Kind == yaml.ScalarNode && k == key.Value {
			return i
		}
	}
	return -1
}

// fillField copies one value.
func fillField(p *problems, n *yaml.Node, path string, into reflect.Value) {
	switch v := into.Addr().Interface().(type) {
	case *text:
		*v = scalar(p, n, path)
	case *texts:
		fillList(p, n, path, v)
	case *rawPeers:
		fillPeers(p, n, path, v)
	default:
		fill(p, n, path+".", into)
	}
}

// fillList copies a list of plain values.
func fillList(p *problems, n *yaml.Node, path string, into *texts) {
	*into = texts{path: path, line: n.Line}
	eachItem(p, n, path, n.Value, func(item *yaml.Node, at string) {
		if t := scalar(p, item, at); t.given() {
			into.items = append(into.items, t)
		}
	})
}

// fillPeers copies a list of mappings.
func fillPeers(p *problems, n *yaml.Node, path string, into *rawPeers) {
	*into = rawPeers{path: path, line: n.Line}
	eachItem(p, n, path, examplePeer, func(item *yaml.Node, at string) {
		before := len(p.list)
		peer := rawPeer{path: at, line: item.Line}
		fill(p, item, at+".", reflect.ValueOf(&peer).Elem())
		// One whose shape is wrong would only be said to lack its fields, too.
		if len(p.list) == before {
			into.items = append(into.items, peer)
		}
	})
}

// eachItem walks a list and gives each item with its path; example is what an
// item may look like.
func eachItem(p *problems, n *yaml.Node, path, example string, take func(item *yaml.Node, at string)) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		p.add(n.Line, path, "is %s; write a list, for example [%s]", kindName(n), example)
		return
	}
	for i, item := range n.Content {
		at := path + "[" + strconv.Itoa(i) + "]"
		// "- " with nothing behind it is more likely forgotten than meant.
		if isNull(item) {
			p.add(item.Line, at, "is empty; remove it")
			continue
		}
		take(item, at)
	}
}

// scalar reads one plain value, absent when it is null.
func scalar(p *problems, n *yaml.Node, path string) text {
	if n.Kind != yaml.ScalarNode {
		p.add(n.Line, path, "is %s; write a single value", kindName(n))
		return text{}
	}
	if isNull(n) {
		return text{}
	}
	return text{path: path, line: n.Line, value: n.Value}
}

// kindName names what stands in the file, for people.
func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias (*), which this file does not support"
	default:
		return "a single value"
	}
}
