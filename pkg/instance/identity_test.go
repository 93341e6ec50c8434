package instance

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

func novaDMI(id string) map[string]string {
	return map[string]string{
		"sys_vendor": "OpenStack Foundation", "product_name": "OpenStack Nova", "product_uuid": id, "product_serial": id,
	}
}

// Each thing comes from the first source that knows it.
func TestIdentifyUsesTheFirstSourceThatKnows(t *testing.T) {
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/openstack/latest/meta_data.json" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(metadataOf(serverID, "from-service"))) // the client reports a failure
	}))
	defer metadata.Close()
	for name, c := range map[string]struct {
		prepare func(m *machine, o *Options)
		want    Identity
	}{
		"command line alone": {
			func(_ *machine, o *Options) { o.ID, o.Zone = "given", "here" },
			Identity{"given", "the command line", "here", "the command line"},
		},
		"no zone needed": {
			func(_ *machine, o *Options) { o.ID, o.NeedsZone = "given", false },
			Identity{ID: "given", IDSource: "the command line"},
		},
		"config drive": {
			func(m *machine, _ *Options) { m.plugConfigDrive("sr0", "QM00005", metadataOf(serverID, "from-drive")) },
			Identity{serverID, "the config drive", "from-drive", "the config drive"},
		},
		"id given, zone found": {
			func(m *machine, o *Options) {
				o.ID = "given"
				m.plugConfigDrive("sr0", "", metadataOf(serverID, "from-drive"))
				m.writeDMI(novaDMI(otherID)) // what the operator says is not questioned
			},
			Identity{"given", "the command line", "from-drive", "the config drive"},
		},
		"DMI for the id, the service for the zone": {
			func(m *machine, _ *Options) { m.writeDMI(novaDMI(serverID)) },
			Identity{serverID, "the DMI table", "from-service", "the metadata service"},
		},
		"DMI in capitals, without a serial": {
			func(m *machine, o *Options) {
				o.NeedsZone = false
				m.writeDMI(map[string]string{
					"sys_vendor": "Red Hat", "product_name": "OpenStack Compute",
					"product_uuid": "D25F9882-EB5A-41EA-8D0C-7A1F0C0A9D11",
				})
			},
			Identity{ID: serverID, IDSource: "the DMI table"},
		},
		"DMI in the byte order of an old firmware": {
			func(m *machine, o *Options) {
				o.NeedsZone = false
				m.writeDMI(novaDMI(serverID))
				m.writeDMI(map[string]string{"product_uuid": "82985fd2-5aeb-ea41-8d0c-7a1f0c0a9d11"})
			},
			Identity{ID: serverID, IDSource: "the DMI table"},
		},
		"DMI with the serial of the host": {
			func(m *machine, o *Options) {
				o.NeedsZone = false
				m.writeDMI(novaDMI(serverID))
				m.writeDMI(map[string]string{"product_serial": otherID})
			},
			Identity{ID: serverID, IDSource: "the DMI table"},
		},
		"service alone": {
			func(m *machine, _ *Options) {
				m.writeDMI(map[string]string{"sys_vendor": "QEMU", "product_name": "Standard PC", "product_uuid": otherID})
			},
			Identity{serverID, "the metadata service", "from-service", "the metadata service"},
		},
		"a broken config drive": {
			func(m *machine, _ *Options) { m.plugConfigDrive("sr0", "", "{") },
			Identity{serverID, "the metadata service", "from-service", "the metadata service"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			o := m.options()
			o.metadata = metadataService{address: metadata.URL, timeout: time.Minute}
			c.prepare(m, &o)
			if got, err := Identify(t.Context(), o); err != nil || got != c.want {
				t.Errorf("%+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
}

func TestIdentifyNamesAllSourcesThatItTried(t *testing.T) {
	m := newMachine(t)
	m.writeDMI(map[string]string{"sys_vendor": "QEMU"})
	_, err := Identify(t.Context(), m.options())
	wantWords(
		t, err, "config drive", "config-2", "DMI table", "QEMU", "metadata service", "127.0.0.1:1", "--node-id",
		"hostNetwork",
	)
	m.writeDMI(novaDMI(serverID))
	_, err = Identify(t.Context(), m.options())
	wantWords(t, err, "availability zone", "config drive", "metadata service", "--zone", "--with-topology=false")
	for _, id := range []string{
		"", "none", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
	} {
		m.writeDMI(novaDMI(id))
		_, err = Identify(t.Context(), m.options())
		wantWords(t, err, "DMI table", "--node-id")
	}
}

// Volumes of this machine must not be attached to another.
func TestIdentifyRefusesAContradiction(t *testing.T) {
	m := newMachine(t)
	m.plugConfigDrive("sr0", "", metadataOf(otherID, "nova"))
	m.writeDMI(novaDMI(serverID))
	_, err := Identify(t.Context(), m.options())
	wantWords(t, err, serverID, otherID, "--node-id")
}

// The user of a volume can put a filesystem of any label on it.
func TestVolumeIsNeverTheConfigDrive(t *testing.T) {
	for _, serial := range []string{otherID, otherID[:20]} {
		m := newMachine(t)
		m.plugConfigDrive("vdb", serial, metadataOf(otherID, "nova"))
		d := m.plug("loop0", blockdev.KindLoop, "", iso("config-2"))
		m.files[d.Path] = m.files[m.disks[0].Path]
		m.plug("sdz", blockdev.KindSCSI, "", iso("config-2"))
		delete(m.serials, "sdz") // does not answer
		_, err := Identify(t.Context(), m.options())
		wantWords(t, err, "config drive: this machine has none")
		if len(m.fstypes) != 0 {
			t.Errorf("opened %v", m.fstypes)
		}
	}
}

func TestConfigDriveOfEachFilesystem(t *testing.T) {
	for want, image := range map[string][]byte{"iso9660": iso("config-2"), "vfat": fat("CONFIG-2", "FAT16")} {
		m := newMachine(t)
		m.plug("vda", blockdev.KindVirtioBlk, "", make([]byte, 1<<20))
		m.plug("sr1", blockdev.KindSCSI, "", nil) // no medium
		m.plug("sr2", blockdev.KindSCSI, "", iso("cidata"))
		d := m.plug("vdb", blockdev.KindVirtioBlk, "", image)
		m.files[d.Path] = map[string]string{metadataPath: metadataOf(serverID, "nova")}
		if got, err := Identify(t.Context(), m.options()); err != nil || got.ID != serverID || len(m.fstypes) != 1 ||
			m.fstypes[0] != want {
			t.Errorf("%+v, %v, opened as %v", got, err, m.fstypes)
		}
	}
}

func TestParseMetadata(t *testing.T) {
	for text, want := range map[string]facts{
		metadataOf(serverID, "nova"):                              {serverID, "nova"},
		metadataOf("D25F9882-EB5A-41EA-8D0C-7A1F0C0A9D11", ""):    {serverID, ""},
		`{"uuid": "` + serverID + `", "availability_zone": null}`: {serverID, ""},
		`{"uuid": ""}`: {}, `{}`: {}, ``: {}, `[]`: {}, `{"uuid": 7}`: {}, `{"uuid": "../../x"}`: {}, `<html>`: {},
	} {
		got, err := parseMetadata([]byte(text))
		if got != want || (err == nil) != (want != facts{}) {
			t.Errorf("%s: facts %+v, error %v; want %+v", text, got, err, want)
		}
	}
}

func FuzzParseMetadata(f *testing.F) {
	f.Add([]byte(metadataOf(serverID, "nova")))
	f.Add([]byte(`{"uuid": "x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parseMetadata(data)
		if err == nil && !volume.IsUUID(got.id) || err != nil && got != (facts{}) {
			t.Errorf("facts %+v, error %v; want a UUID or an error", got, err)
		}
	})
}

func FuzzSwapByteOrder(f *testing.F) {
	f.Add(serverID)
	f.Add("-")
	f.Fuzz(func(t *testing.T, text string) {
		got := swapByteOrder(text)
		if volume.IsUUID(text) && (swapByteOrder(got) == "" || !volume.IsUUID(got)) {
			t.Errorf("%q became %q", text, got)
		}
	})
}

func TestMetadataServiceIsRetried(t *testing.T) {
	for name, c := range map[string]struct {
		answers []int // status codes, in order; the last one for ever
		tries   int32
		ok      bool
	}{
		"immediately":     {[]int{200}, 1, true},
		"after a failure": {[]int{503, 500, 200}, 3, true},
		"too busy":        {[]int{429, 200}, 2, true},
		"never":           {[]int{500}, 4, false},
		"not found":       {[]int{404}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			var tries atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				code := c.answers[min(int(tries.Add(1)), len(c.answers))-1]
				w.WriteHeader(code)
				if code == http.StatusOK {
					_, _ = w.Write([]byte(metadataOf(serverID, "nova"))) // the client reports a failure
				}
			}))
			defer server.Close()
			s := metadataService{address: server.URL, timeout: time.Minute, retryDelays: make([]time.Duration, 3)}
			got, err := s.read(t.Context())
			if (err == nil) != c.ok || c.ok && got != (facts{serverID, "nova"}) || tries.Load() != c.tries {
				t.Errorf("%+v, %v after %d tries", got, err, tries.Load())
			}
		})
	}
}

func TestMetadataServiceTimesOut(t *testing.T) {
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-ended:
		}
	}))
	defer server.Close()
	defer close(ended)
	s := metadataService{address: server.URL, timeout: 20 * time.Millisecond, retryDelays: make([]time.Duration, 1)}
	if _, err := s.read(t.Context()); err == nil {
		t.Error("no answer is an answer")
	}
	m := newMachine(t)
	o := m.options()
	o.metadata = metadataService{address: server.URL, timeout: time.Hour}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Identify(ctx, o); !volume.IsKind(err, volume.KindDeadline) {
		t.Errorf("error %v, want kind Deadline", err)
	}
}

func TestMetadataOfTooManyBytesIsRefused(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, maxMetadataSize+1)) // the client reports a failure
	}))
	defer server.Close()
	_, err := metadataService{address: server.URL, timeout: time.Minute}.read(t.Context())
	wantWords(t, err, "is longer than")
}

// A disk that does not answer delays neither Identify nor AttachLimit beyond disksTimeout.
func TestDiskThatHangsDelaysNeitherIdentityNorLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		m.holdSerials = make(chan struct{})
		m.plug("vda", blockdev.KindVirtioBlk, "", nil)
		m.writeDMI(novaDMI(serverID))
		o := m.options()
		o.Zone = "here"
		if got, err := Identify(t.Context(), o); err != nil || got.IDSource != "the DMI table" {
			t.Errorf("identity %+v, error %v; want it from the DMI table", got, err)
		}
		limit := LimitOptions{Disks: m, sysfs: o.sysfs}
		if got, err := AttachLimit(t.Context(), limit); err != nil || got.Volumes != 256 {
			t.Errorf("limit %+v, error %v; want 256", got, err)
		}
		// The orchestrator asks once: the slots still limit the number.
		m.addSlots("0000:00:%02x", 29, 2)
		limit.Reserved = 3
		if got, err := AttachLimit(t.Context(), limit); err != nil || got.Volumes != 26 ||
			!strings.Contains(got.Reason, "29 PCI slots") {
			t.Errorf("%+v, %v; want 26: 29 slots less 3", got, err)
		}
		m.addSlots("0000:00:%03x", 300, 2)
		limit.Reserved = 0
		if got, err := AttachLimit(t.Context(), limit); err != nil || got.Volumes != 256 {
			t.Errorf("%+v, %v; want 256", got, err)
		}
		scsi := newMachine(t)
		scsi.holdSerials = m.holdSerials
		scsi.plug("sda", blockdev.KindSCSI, "", nil)
		scsi.addSlots("0000:00:%02x", 29, 2)
		if got, err := AttachLimit(t.Context(), scsi.limitOptions()); err != nil || got.Volumes != 256 ||
			strings.Contains(got.Reason, "slots") {
			t.Errorf("%+v, %v; want 256: no disk needs a slot", got, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := AttachLimit(ctx, limit); !volume.IsKind(err, volume.KindDeadline) {
			t.Errorf("error %v, want kind Deadline", err)
		}
		close(m.holdSerials)
	})
}
