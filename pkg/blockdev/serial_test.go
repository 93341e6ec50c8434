package blockdev

import (
	"bytes"
	"strings"
	"testing"
)

const uuid = "d25f9882-eb5a-41ea-8d0c-7a1f0c0a9d11"

func TestSerialOfEachKind(t *testing.T) {
	m := newMachineWithDisks(t)
	m.writeFile("sys/devices/pci/host0/vpd_pg80", "\x00\x80\x00\x24"+uuid)
	for number, want := range map[string]string{
		"252:0": uuid[:20],
		"259:0": uuid[:20],
		"8:0":   uuid,
		"7:0":   "/pool/volumes/vol-1/data",
		"251:0": "kubernetes/volume-1",
		"250:0": "",
		"259:1": "",
	} {
		if got, err := m.Serial(m.mustFind(number)); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", number, got, err, want)
		}
	}
	m.writeFile("sys/bus/rbd/devices/0/pool_ns", "tenant\n")
	if got, err := m.Serial(m.mustFind("251:0")); err != nil || got != "kubernetes/tenant/volume-1" {
		t.Errorf("with a namespace: %q, %v", got, err)
	}
	m.writeFile("sys/devices/pci/virtio1/block/vda/serial", "\x01\xff\x00garbage")
	if got, err := m.Serial(m.mustFind("252:0")); err != nil || got != "" {
		t.Errorf("an unprintable serial: %q, %v; want none", got, err)
	}
}

func TestSerialMatches(t *testing.T) {
	for _, c := range []struct {
		visible, id string
		want        bool
	}{
		{uuid, uuid, true},
		{uuid[:20], uuid, true},
		{uuid[:20] + "\n", uuid, true},
		{uuid[:19], uuid, false}, // shorter than what the kernel can show
		{uuid[:21], uuid, false}, // a longer prefix is another serial
		{"", uuid, false},
		{uuid[:20], "", false},
		{"", "", false},
		{"short", "short", true},
		{"short", "short-but-longer", false},
		{uuid[:19] + "x", uuid, false},
		{uuid, uuid[:20], false},
	} {
		if got := SerialMatches(c.visible, c.id); got != c.want {
			t.Errorf("SerialMatches(%q, %q) = %t", c.visible, c.id, got)
		}
	}
}

func TestParseVPD80(t *testing.T) {
	for page, want := range map[string]string{
		"\x00\x80\x00\x04abcd":            "abcd",
		"\x00\x80\x00\x06 abcd ":          "abcd",
		"\x00\x80\x00\x04abcd\x00\x00":    "abcd", // what follows the length is not part of it
		"\x00\x83\x00\x04abcd":            "",     // another page
		"\x00\x80\x00\x05abcd":            "",     // cut off
		"\x00\x80\x00\x00":                "",
		"\x00\x80\x00":                    "",
		"":                                "",
		"\x00\x80\x00\x04ab\x01d":         "",
		"\x00\x80\xff\xff" + uuid:         "",
		"\x00\x80\x00\x02\x00\x00":        "",
		"\x00\x80\x00\x24" + uuid + "xyz": uuid,
	} {
		got, ok := parseVPD80([]byte(page))
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t; want %q", page, got, ok, want)
		}
	}
}

func FuzzParseVPD80(f *testing.F) {
	f.Add([]byte("\x00\x80\x00\x04abcd"))
	f.Add([]byte("\x00\x80\xff\xffabcd"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, page []byte) {
		serial, ok := parseVPD80(page)
		if ok != (serial != "") {
			t.Fatalf("%q: serial %q, ok %t", page, serial, ok)
		}
		if !bytes.Contains(page, []byte(serial)) || strings.ContainsAny(serial, "\x00\n\r\x7f") {
			t.Fatalf("%q gave %q", page, serial)
		}
	})
}
