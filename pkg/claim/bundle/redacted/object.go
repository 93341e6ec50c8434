package redacted

import (
	"fmt"
	"strings"
)

// object returns the tree of an object of Kubernetes, or of a list, without its secrets. It changes
// the tree. This file has the rules for objects.
func (r *redactor) object(tree any) (any, error) {
	if kind := dataKind(tree); kind != "" {
		return nil, fmt.Errorf("a %s is not allowed in the archive", kind)
	}
	return r.value(tree), nil
}

// dataKind returns the kind of a Secret or ConfigMap in the tree, or an empty text.
func dataKind(tree any) string {
	switch v := tree.(type) {
	case map[string]any:
		kind, _ := v["kind"].(string)
		switch kind = strings.TrimSuffix(kind, "List"); kind {
		case "Secret", "ConfigMap":
			if v["apiVersion"] == "v1" {
				return kind
			}
		}
		for _, child := range v {
			if kind := dataKind(child); kind != "" {
				return kind
			}
		}
	case []any:
		for _, child := range v {
			if kind := dataKind(child); kind != "" {
				return kind
			}
		}
	}
	return ""
}

// value returns a value without its secrets.
func (r *redactor) value(v any) any {
	switch v := v.(type) {
	case string:
		return r.text(v)
	case map[string]any:
		r.fields(v)
	case []any:
		for i := range v {
			v[i] = r.value(v[i])
		}
	}
	return v
}

// fields removes the secrets from the fields of an object.
func (r *redactor) fields(fields map[string]any) {
	delete(fields, "managedFields") // who wrote which field: of no use, and it has keys of annotations
	name, _ := fields["name"].(string)
	for key, v := range fields {
		list, isList := v.([]any)
		annotations, isMap := v.(map[string]any)
		switch {
		case key == "annotations" && isMap:
			r.annotations(annotations)
		case key == "env" && isList:
			r.environment(list)
		case (key == "args" || key == "command") && isList:
			r.arguments(list)
		case key == "value" && r.isSecretName(name): // such as a header of a probe
			fields[key] = r.remove(v)
		case r.isSecretName(key) && isReference(key) && (isList || isMap):
			r.reference(v)
		case r.isSecretName(key):
			fields[key] = r.remove(v)
		default:
			fields[key] = r.value(v)
		}
	}
}

// remove replaces all texts and numbers of a value.
func (r *redactor) remove(v any) any {
	switch v := v.(type) {
	case nil, bool:
		return v
	case string:
		if v == "" || v == mark {
			return v
		}
	case map[string]any:
		for key := range v {
			v[key] = r.remove(v[key])
		}
		return v
	case []any:
		for i := range v {
			v[i] = r.remove(v[i])
		}
		return v
	}
	r.count++
	return mark
}

// annotations removes the values of all annotations that may be a user's.
func (r *redactor) annotations(annotations map[string]any) {
	for name, v := range annotations {
		if isKnownAnnotation(name) && !r.isSecretName(name) {
			annotations[name] = r.value(v)
		} else {
			annotations[name] = r.remove(v)
		}
	}
}

// environment removes the values of environment variables. Their names and references stay.
func (r *redactor) environment(variables []any) {
	for i := range variables {
		variable, isMap := variables[i].(map[string]any)
		if !isMap {
			variables[i] = r.remove(variables[i])
			continue
		}
		if v, found := variable["value"]; found {
			variable["value"] = r.remove(v)
		}
		if source, found := variable["valueFrom"]; found {
			variable["valueFrom"] = r.value(source)
		}
	}
}

// arguments removes the values of secret options: in "--token=x", and the argument behind
// "--token".
func (r *redactor) arguments(arguments []any) {
	isValue := false
	for i := range arguments {
		text, isText := arguments[i].(string)
		if isValue || !isText {
			arguments[i], isValue = r.remove(arguments[i]), false
			continue
		}
		option, value, hasValue := strings.Cut(text, "=")
		isOption := strings.HasPrefix(text, "-") && !strings.ContainsAny(option, " \n")
		switch {
		case isOption && r.isSecretName(option) && hasValue && value != "true" && value != "false":
			arguments[i], r.count = option+"="+mark, r.count+1
		case isOption && r.isSecretName(option) && !hasValue:
			isValue = true
		default:
			arguments[i] = r.text(text)
		}
	}
}

// reference removes all but the known fields of a reference to a Secret.
func (r *redactor) reference(v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, child := range v {
			switch child.(type) {
			case map[string]any, []any:
				r.reference(child)
			default:
				if !isReferenceField(key) {
					v[key] = r.remove(child)
				}
			}
		}
	case []any:
		for i := range v {
			switch v[i].(type) {
			case map[string]any, []any:
				r.reference(v[i])
			default:
				v[i] = r.remove(v[i])
			}
		}
	}
}
