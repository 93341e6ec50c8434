package fakecloud_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// shapeOf returns a JSON value with types in place of values. A list gets one element, which has
// the fields of all elements.
func shapeOf(v any) any {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "bool"
	case float64:
		return "number"
	case []any:
		var all any = "empty"
		for _, e := range v {
			all = mergeShapes(all, shapeOf(e))
		}
		return []any{all}
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			switch {
			case isTypeQuota(k):
			case isUserDefined(k):
				out[k] = "free"
			case isVerbatim(k):
				out[k] = e
			default:
				out[k] = shapeOf(e)
			}
		}
		return out
	}
	return fmt.Sprintf("%T", v)
}

// isVerbatim reports whether the value of the field is compared, not only its type.
func isVerbatim(key string) bool {
	return slices.Contains([]string{"event_id", "user_message", "message_level", "resource_type", "min_version", "code"},
		key)
}

// isUserDefined reports whether users or administrators choose the keys of the object.
func isUserDefined(key string) bool {
	return key == "metadata" || key == "connection_info" || key == "extra_specs"
}

// isTypeQuota reports whether key is the quota of one volume type, such as "gigabytes_rbd".
func isTypeQuota(key string) bool {
	kind, name, _ := strings.Cut(key, "_")
	return slices.Contains([]string{"volumes", "gigabytes", "snapshots"}, kind) && name != "" && name != "links"
}

// mergeShapes returns the shape that has the fields of both.
func mergeShapes(a, b any) any {
	ma, ok1 := a.(map[string]any)
	mb, ok2 := b.(map[string]any)
	switch {
	case ok1 && ok2:
		for k, v := range mb {
			if have, ok := ma[k]; ok {
				v = mergeShapes(have, v)
			}
			ma[k] = v
		}
		return ma
	case a == "empty" || a == "null":
		return b
	}
	return a
}

func errorMessage(body any) string {
	m, _ := body.(map[string]any)
	for _, v := range m {
		if o, ok := v.(map[string]any); ok {
			return fmt.Sprint(o["message"])
		}
	}
	return ""
}

// normalize replaces the parts of an error message that differ from cloud to cloud: IDs, the
// highest microversion and the consumed quota.
func (c *comparedCloud) normalize(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	for name, id := range c.ids {
		if len(id) > 20 {
			text = strings.ReplaceAll(text, id, "{"+name+"}")
		}
	}
	text = regexp.MustCompile(`req-[0-9a-f-]{36}`).ReplaceAllString(text, "req-ID")
	text = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`).ReplaceAllString(text, "ID")
	text = regexp.MustCompile(`maximum is [0-9.]+`).ReplaceAllString(text, "maximum is MAX")
	return regexp.MustCompile(`and \d+G has been consumed`).ReplaceAllString(text, "and USED has been consumed")
}

// findID returns the ID of the object in an answer.
func findID(body any) string {
	m, _ := body.(map[string]any)
	for _, v := range m {
		if o, ok := v.(map[string]any); ok {
			if id, ok := o["id"].(string); ok {
				return id
			}
		}
	}
	return ""
}
