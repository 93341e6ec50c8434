package cloud

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakecloud"
)

// Safe calls succeed in spite of transient failures.
func TestSafeCallsAreRepeated(t *testing.T) {
	for name, fault := range map[string]fakecloud.Fault{
		"lost reply": fakecloud.LostReply(), "cut off": fakecloud.CutOff(), "500": fakecloud.Status(500, ""),
		"502": fakecloud.Status(502, ""),
		"503": fakecloud.Status(503, ""), "504": fakecloud.Status(504, ""), "429": fakecloud.Throttled(429, 0),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, fakecloud.Options{})
			v := r.volume(t, "pvc-1", 1)
			rule := r.fake.On(fakecloud.Match{Call: fakecloud.GetVolume}, fault).Times(2)
			if _, err := r.Volume(t.Context(), v.ID); err != nil || rule.Hits() != 2 {
				t.Errorf("%v after %d faults", err, rule.Hits())
			}
			if name != "500" {
				rule = r.fake.On(fakecloud.Match{Call: fakecloud.DeleteVolume}, fault)
				err := r.DeleteVolume(t.Context(), v.ID)
				if name == "lost reply" && (volume.IsKind(err, volume.KindInProgress) || volume.IsKind(err, volume.KindNotFound)) {
					err = nil // the first attempt did it
				}
				if err != nil || rule.Hits() != 1 {
					t.Errorf("deleting: %v after %d faults", err, rule.Hits())
				}
			}
		})
	}
}

// A deletion whose first attempt is under way is no conflict.
func TestDeletionAfterALostReply(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	v := r.volume(t, "pvc-1", 1)
	r.fake.On(fakecloud.Match{Call: fakecloud.DeleteVolume}, fakecloud.LostReply(), fakecloud.Stuck())
	volumetest.WantKind(t, r.DeleteVolume(t.Context(), v.ID), volume.KindInProgress, "an earlier attempt got no answer")
	volumetest.WantKind(t, r.DeleteVolume(t.Context(), v.ID), volume.KindPrecondition, "400")
}

// A request that creates something is sent once, unless it was certainly not carried out.
func TestCreationIsNotRepeated(t *testing.T) {
	for name, c := range map[string]struct {
		fault fakecloud.Fault
		made  int
	}{
		"lost reply": {fakecloud.LostReply(), 1},
		"cut off":    {fakecloud.CutOff(), 0},
		"500":        {fakecloud.Status(500, ""), 0},
		"502":        {fakecloud.Status(502, ""), 0},
		"504":        {fakecloud.Status(504, ""), 0},
		"503":        {fakecloud.Status(503, ""), 0},
		"truncated":  {fakecloud.Truncated(), 1},
		"html":       {fakecloud.WrongContentType(), 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, fakecloud.Options{})
			r.fake.On(fakecloud.Match{Call: fakecloud.CreateVolume}, c.fault)
			_, err := r.CreateVolume(t.Context(), NewVolume{Name: "pvc-1", Size: 1})
			volumetest.WantKind(t, err, volume.KindUnavailable, "creating volume pvc-1 of 1 GiB")
			if n := r.fake.Count(fakecloud.CreateVolume); n != 1 {
				t.Errorf("%d requests", n)
			}
			vs, err := r.VolumesNamed(t.Context(), "pvc-1")
			must(t, err)
			if len(vs) != c.made {
				t.Errorf("%d volumes, want %d", len(vs), c.made)
			}
		})
	}
}

func TestLostAnswerOfACreationSaysThatItMayBeDone(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	r.fake.On(fakecloud.Match{Call: fakecloud.CreateVolume}, fakecloud.LostReply())
	_, err := r.CreateVolume(t.Context(), NewVolume{Name: "pvc-1", Size: 1})
	volumetest.WantKind(t, err, volume.KindUnavailable,
		"no answer from cinder; it is not known whether the request was carried out")
	r.fake.On(fakecloud.Match{Call: fakecloud.GetVolume}, fakecloud.CutOff()).Always()
	_, err = r.Volume(t.Context(), absentID)
	volumetest.WantKind(t, err, volume.KindUnavailable, "no answer from cinder:")
	if strings.Contains(err.Error(), "127.0.0.1") && strings.Contains(err.Error(), "/volume/v3") {
		t.Errorf("the address is of no use to the reader: %v", err)
	}
}

func TestThrottledCreationIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, status := range []int{429, 413} {
			r := newRig(t, fakecloud.Options{})
			r.fake.On(fakecloud.Match{Call: fakecloud.CreateVolume}, fakecloud.Throttled(status, 1))
			start := time.Now()
			_, err := r.CreateVolume(t.Context(), NewVolume{Name: "pvc-1", Size: 1})
			must(t, err)
			if took := time.Since(start); took < time.Second || r.fake.Count(fakecloud.CreateVolume) != 2 {
				t.Errorf("%d: done after %s with %d requests", status, took, r.fake.Count(fakecloud.CreateVolume))
			}
		}
	})
}

// A call does not wait for a pause that is longer than its context lasts.
func TestRetryAfterBeyondTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.fake.On(fakecloud.Match{Call: fakecloud.GetVolume}, fakecloud.Throttled(429, 20)).Always()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		_, err := r.Volume(ctx, absentID)
		volumetest.WantKind(t, err, volume.KindUnavailable, "429", "it asks to try again in 20s")
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %s to say so", took)
		}
		if n := r.fake.Count(fakecloud.GetVolume); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestCallFailsAfterItsLastAttempt(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	r.fake.On(fakecloud.Match{Call: fakecloud.GetVolume}, fakecloud.Status(503, "maintenance")).Always()
	_, err := r.Volume(t.Context(), absentID)
	volumetest.WantKind(t, err, volume.KindUnavailable, "reading volume "+absentID, "503", "maintenance", "req-")
	if n := r.fake.Count(fakecloud.GetVolume); n != 6 {
		t.Errorf("%d requests, want 6", n)
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.fake.SetLatency(fakecloud.GetVolume, fakecloud.Latency{Answer: fakecloud.Fixed(time.Minute)})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := r.Volume(ctx, absentID)
		volumetest.WantKind(t, err, volume.KindDeadline, "the call ended before cinder answered")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the cause is lost: %v", err)
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		_, err = r.Volume(gone, absentID)
		volumetest.WantKind(t, err, volume.KindCanceled, "reading volume")
		_, err = r.clouds.Cloud(gone, "admin")
		volumetest.WantKind(t, err, volume.KindCanceled)
	})
}

func TestUnreadableAnswerIsUnavailable(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	v := r.volume(t, "pvc-1", 1)
	for _, f := range []fakecloud.Fault{fakecloud.Truncated(), fakecloud.WrongContentType()} {
		r.fake.On(fakecloud.Match{Call: fakecloud.GetVolume}, f)
		_, err := r.Volume(t.Context(), v.ID)
		volumetest.WantKind(t, err, volume.KindUnavailable, "the answer of cinder cannot be used (request req-")
	}
}

// A 404 that no OpenStack service wrote is not taken for a deleted volume.
func TestPageOfAnotherServerIsNotNotFound(t *testing.T) {
	k := call{service: blockStorage, name: "volume_get", what: "reading volume v", method: "GET", path: "volumes/v"}
	r := newRig(t, fakecloud.Options{})
	conn, err := r.connection(t.Context())
	must(t, err)
	err = newExchange(conn.provider, k, r.fake.URL()+"/nowhere/").run(t.Context(),
		func(client *serviceClient) error {
			return volumes.Get(t.Context(), client, "v").Err
		})
	if volume.IsKind(err, volume.KindNotFound) || err == nil {
		t.Errorf("a page of another server reads as %v (%s)", err, volume.KindOf(err))
	}
}

func TestCallsWorkAgainAfterAnOutage(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	v := r.volume(t, "pvc-1", 1)
	r.fake.StopListening()
	_, err := r.Volume(t.Context(), v.ID)
	volumetest.WantKind(t, err, volume.KindUnavailable, "reading volume "+v.ID, "no answer from cinder", "refused")
	must(t, r.fake.ResumeListening(t.Context()))
	_, err = r.Volume(t.Context(), v.ID)
	must(t, err)
}

// A cloud that was downgraded answers 406 once; then its versions are read again.
func TestRefusedMicroversionMakesTheVersionsBeReadAgain(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	v, node := r.volume(t, "pvc-1", 1), r.fake.AddServer("")
	must(t, r.Attach(t.Context(), node, v.ID, false))
	r.await(t, v.ID, "in-use")
	must(t, r.CheckFeature(t.Context(), FeatureOnlineExtend))
	r.fake.On(fakecloud.Match{Call: fakecloud.ExtendVolume},
		fakecloud.Status(406, "Version 3.42 is not supported by the API."))
	r.fake.ClearRequests()
	volumetest.WantKind(t, r.ExtendVolume(t.Context(), v.ID, 2, true), volume.KindPrecondition, "406",
		"Version 3.42 is not supported")
	must(t, r.ExtendVolume(t.Context(), v.ID, 2, true))
	if n := r.fake.Count(fakecloud.Discover); n != 1 {
		t.Errorf("the versions were read %d times after the 406, want once", n)
	}
}

// A change that does no harm when it is done twice is repeated after a lost answer.
func TestRepeatableChangesAreRepeated(t *testing.T) {
	r := newRig(t, fakecloud.Options{ServiceRole: true})
	ctx := t.Context()
	v, node := r.volume(t, "pvc-1", 1), r.fake.AddServer("")
	b, err := r.CreateBackup(ctx, NewBackup{Name: "b", VolumeID: v.ID})
	must(t, err)
	awaitAvailable(t, func() (string, error) { b, err = r.Backup(ctx, b.ID); return b.Status, err })
	must(t, r.Attach(ctx, node, v.ID, false))
	r.await(t, v.ID, "in-use")
	for call, run := range map[fakecloud.Call]func() error{
		fakecloud.SetMetadata:  func() error { return r.SetVolumeMetadata(ctx, v.ID, map[string]string{"k": "v"}) },
		fakecloud.UpdateBackup: func() error { return r.SetBackupMetadata(ctx, b.ID, map[string]string{"k": "v"}) },
		fakecloud.SendEvents:   func() error { return r.NotifyExtended(ctx, node, v.ID) },
	} {
		r.fake.ClearRequests()
		r.fake.On(fakecloud.Match{Call: call}, fakecloud.LostReply())
		if err := run(); err != nil || r.fake.Count(call) != 2 {
			t.Errorf("%s: %v after %d requests, want 2", call, err, r.fake.Count(call))
		}
	}
}

func TestMayBeDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := call{service: blockStorage, name: "volume_create", what: "creating"}
		for status, want := range map[int]bool{
			200: true, 204: true, 302: true, 400: false, 403: false, 409: false, 413: false, 429: false, 500: true, 503: true,
		} {
			for _, retryAfter := range []string{"", "0", "7"} {
				r := gophercloud.ErrUnexpectedResponseCode{
					Actual: status, Body: []byte(faultBody("x")), ResponseHeader: http.Header{"Retry-After": {retryAfter}},
				}
				if err := newAnswer(k, r, false).toError(); MayBeDone(err) != want {
					t.Errorf("Retry-After %q: MayBeDone(%v) = %t, want %t", retryAfter, err, !want, want)
				}
			}
		}
		for err, want := range map[error]bool{
			noAnswerError(t.Context(), k, errors.New("connection reset")):               true,
			noAnswerError(contextFor(t, 0), k, context.DeadlineExceeded):                true,
			unusableError(k, errors.New("the answer has no field \"volume\""), "req-1"): true,
			volume.Errorf(volume.KindInvalid, "no request was sent"):                    false,
			volume.Errorf(volume.KindUnsupported, "too old"):                            false,
		} {
			if MayBeDone(err) != want {
				t.Errorf("MayBeDone(%v) = %t, want %t", err, !want, want)
			}
		}
	})
}
