package cloud

import (
	"encoding/json"
	"time"
)

// stamp is a time as Cinder writes it: UTC without saying so. A time that
// cannot be read is no reason to fail a call; it stays zero.
type stamp time.Time

// UnmarshalJSON implements json.Unmarshaler.
func (s *stamp) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	*s = stamp{}
	for _, layout := range []string{"2006-01-02T15:04:05.999999", time.RFC3339Nano} {
		if t, err := time.Parse(layout, text); err == nil {
			*s = stamp(t.UTC())
			break
		}
	}
	return nil
}

// link is a reference to a further page.
type link struct {
	Rel string `json:"rel"`
}

// more tells whether links point to a next page.
func more(links []link) bool {
	for _, l := range links {
		if l.Rel == "next" {
			return true
		}
	}
	return false
}
