package volume

import "testing"

func TestUUID(t *testing.T) {
	const uuid = "d25f9882-eb5a-41ea-8d0c-7a1f0c0a9d11"
	for i := range len(uuid) + 1 {
		if !IsUUIDPrefix(uuid[:i]) || IsUUID(uuid[:i]) != (i == len(uuid)) {
			t.Errorf("%q: a beginning %t, whole %t", uuid[:i], IsUUIDPrefix(uuid[:i]), IsUUID(uuid[:i]))
		}
	}
	if !IsUUID("D25F9882-EB5A-41EA-8D0C-7A1F0C0A9D11") {
		t.Error("capital letters are refused")
	}
	for _, text := range []string{
		uuid + "0", "g25f9882", "d25f98829", "d25f9882-eb5a-41ea-8d0c-7a1f0c0a9d1-", "-", " d25f9882",
		"d25f9882-eb5a-41ea-8d0c-7a1f0c0a9d1\xff", "日",
	} {
		if IsUUIDPrefix(text) || IsUUID(text) {
			t.Errorf("%q passes", text)
		}
	}
}
