package autogrow

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
)

// testTime is the present time of the tests.
var testTime = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func quantity(s string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(s)}
}

// newSubject returns a claim of 10 GiB that has opted in, with a limit of 100 GiB, of which two
// readings show 500 MiB of 10 GiB free.
func newSubject() *subject {
	class := "fast"
	isExpandable := true
	return &subject{
		claim: &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "app", Name: "data", UID: "claim-uid", ResourceVersion: "7",
				Annotations: map[string]string{AnnotationEnabled: "true", AnnotationLimit: "100Gi"},
			},
			Spec: corev1.PersistentVolumeClaimSpec{
				VolumeName: "pv", StorageClassName: &class,
				Resources: corev1.VolumeResourceRequirements{Requests: quantity("10Gi")},
			},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: quantity("10Gi")},
		},
		class: &storagev1.StorageClass{
			ObjectMeta: metav1.ObjectMeta{Name: class}, AllowVolumeExpansion: &isExpandable,
		},
		readings: []reading{newReading(500*volume.MiB, -2*time.Second), newReading(600*volume.MiB, -12*time.Second)},
		now:      testTime,
	}
}

// newReading returns a reading of a filesystem of 10 GiB at that time.
func newReading(free volume.Size, at time.Duration) reading {
	return reading{
		node: "node1",
		size: readings.Layer{Name: readings.LayerFilesystem, Size: 10 * volume.GiB, ReadAt: testTime.Add(at)},
		usage: readings.Usage{
			Filesystem: "xfs", Total: 10*volume.GiB - 64*volume.MiB, Available: free, Used: 9 * volume.GiB,
			ReadAt: testTime.Add(at),
		},
	}
}

// setSize sets the sizes of the claim, and of the filesystem in all readings.
func (s *subject) setSize(capacity, request string, filesystem volume.Size) {
	s.claim.Status.Capacity, s.claim.Spec.Resources.Requests = quantity(capacity), quantity(request)
	for i := range s.readings {
		s.readings[i].size.Size, s.readings[i].usage.Total = filesystem, filesystem-64*volume.MiB
	}
}

// setStep sets the step of a resize to the attempted size.
func (s *subject) setStep(step corev1.ClaimResourceStatus, attempted string) {
	s.claim.Status.AllocatedResources = quantity(attempted)
	s.claim.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{
		corev1.ResourceStorage: step,
	}
}

// setRecord sets the record of a growth that long ago, before which the filesystem had total.
func (s *subject) setRecord(age time.Duration, from, to, total volume.Size, isHalf bool) {
	r := record{}.next(s.now.Add(-age), from, to, total, isHalf)
	text, _ := json.Marshal(r) //nolint:errchkjson // a test: a malformed record fails it
	s.claim.Annotations[AnnotationRecord], s.claim.Annotations[AnnotationGrownTo] = string(text), quantityOf(to)
}

func (s *subject) annotate(key, value string) { s.claim.Annotations[key] = value }

// rule is a row of the tables: what is changed in a claim that would grow to 11 GiB, the decision,
// and parts of its note.
type rule struct {
	name    string
	change  func(*subject)
	verdict verdict
	target  volume.Size
	note    []string
}

func checkRules(t *testing.T, rules []rule) {
	t.Helper()
	for _, row := range rules {
		s := newSubject()
		row.change(s)
		d := decide(*s)
		if d.verdict != row.verdict || d.target != row.target {
			t.Errorf("%s: got %s with %s, want %s with %s (%s)", row.name, d.verdict, d.target, row.verdict, row.target, d.note)
		}
		for _, part := range row.note {
			if !strings.Contains(d.note, part) {
				t.Errorf("%s: got the note %q, want %q in it", row.name, d.note, part)
			}
		}
	}
}

const gib = volume.GiB

func TestOptInAndLimitAreMandatory(t *testing.T) {
	checkRules(t, []rule{
		{"opted in", func(*subject) {}, verdictGrow, 11 * gib, []string{
			"has 500 MiB of 9.94 GiB", "below 10 %", "read at 11:59:58 on node1", "from 10 GiB to 11 GiB", "at most 100 GiB",
		}},
		{"not opted in", func(s *subject) { delete(s.claim.Annotations, AnnotationEnabled) }, verdictOff, 0, nil},
		{"by the class", func(s *subject) {
			s.class.Annotations = s.claim.Annotations
			s.claim.Annotations = nil
		}, verdictGrow, 11 * gib, nil},
		{"class, but claim out", func(s *subject) {
			s.class.Annotations = map[string]string{AnnotationEnabled: "true"}
			s.annotate(AnnotationEnabled, "false")
		}, verdictOff, 0, nil},
		{"claim before class", func(s *subject) {
			s.class.Annotations = map[string]string{AnnotationEnabled: "false", AnnotationLimit: "1Gi", AnnotationIncrease: "1%"}
			s.annotate(AnnotationIncrease, "50%")
		}, verdictGrow, 15 * gib, nil},
		{
			"claim without a limit", func(s *subject) { delete(s.claim.Annotations, AnnotationLimit) }, verdictInvalid, 0,
			[]string{"has no limit", AnnotationLimit},
		},
		{"limit 0", func(s *subject) { s.annotate(AnnotationLimit, "0") }, verdictInvalid, 0, []string{"has no limit"}},
		{"class without a limit", func(s *subject) {
			s.class.Annotations = map[string]string{AnnotationEnabled: "true"}
			s.claim.Annotations = nil
		}, verdictOff, 0, nil},
	})
}

func TestAnnotationsThatCannotBeReadStopAllGrowth(t *testing.T) {
	for _, row := range [][3]string{
		{AnnotationEnabled, "yes", `neither "true" nor "false"`},
		{AnnotationEnabled, "True", `neither "true" nor "false"`},
		{AnnotationLimit, "much", "is no size, such as 100Gi"},
		{AnnotationLimit, "-1Gi", "is negative"},
		{AnnotationLimit, "10%", "is no size"},
		{AnnotationThreshold, "101%", "is not between 0% and 100%"},
		{AnnotationThreshold, "NaN%", "is not between 0% and 100%"},
		{AnnotationThreshold, "-1%", "is not between 0% and 100%"},
		{AnnotationThreshold, "ten", "neither a percentage"},
		{AnnotationThreshold, "0", "is zero"},
		{AnnotationInodesThreshold, "1000", "is no percentage, such as 10%"},
		{AnnotationIncrease, "0%", "is zero"},
		{AnnotationIncrease, "10%%", "is no percentage"},
		{AnnotationIncrease, "-5Gi", "neither a percentage"},
		{AnnotationCooldown, "30", "is no duration, such as 30m"},
		{AnnotationCooldown, "-1m", "is negative"},
		{AnnotationMinStep, "5%", "is no size"},
		{AnnotationRecord, "{}", "is not what the operator has written"},
	} {
		for _, object := range []string{"claim", "StorageClass"} {
			change := func(s *subject) { s.annotate(row[0], row[1]) }
			note := []string{row[0], row[1], row[2], "next step"}
			if object == "StorageClass" {
				if strings.HasPrefix(row[0], "growvol.io/gr") {
					continue // the operator's own annotations are on claims only
				}
				change = func(s *subject) {
					delete(s.claim.Annotations, row[0])
					s.class.Annotations = map[string]string{row[0]: row[1]}
				}
			}
			if !strings.HasPrefix(row[0], "growvol.io/gr") {
				note = append(note, "of the "+object)
			}
			checkRules(t, []rule{{fmt.Sprintf("%s: %s on the %s", row[0], row[1], object), change, verdictInvalid, 0, note}})
		}
	}
}

func TestClaimsThatCannotGrow(t *testing.T) {
	block, now := corev1.PersistentVolumeBlock, metav1.NewTime(testTime)
	isFixed := false
	checkRules(t, []rule{
		{"block", func(s *subject) { s.claim.Spec.VolumeMode = &block }, verdictIneligible, 0, []string{"raw block"}},
		{
			"pending",
			func(s *subject) { s.claim.Status.Phase = corev1.ClaimPending },
			verdictIneligible,
			0,
			[]string{"not bound"},
		},
		{"without capacity", func(s *subject) { s.claim.Status.Capacity = nil }, verdictIneligible, 0, []string{"not bound"}},
		{"deleted", func(s *subject) { s.claim.DeletionTimestamp = &now }, verdictOff, 0, nil},
		{"no class", func(s *subject) { s.class = nil }, verdictIneligible, 0, []string{"does not exist"}},
		{
			"fixed",
			func(s *subject) { s.class.AllowVolumeExpansion = &isFixed },
			verdictIneligible,
			0,
			[]string{"allowVolumeExpansion"},
		},
		{
			"unset",
			func(s *subject) { s.class.AllowVolumeExpansion = nil },
			verdictIneligible,
			0,
			[]string{"allowVolumeExpansion"},
		},
		{
			"pvc-autoresizer",
			func(s *subject) { s.resizer = "pvc-autoresizer runs" },
			verdictAside,
			0,
			[]string{"pvc-autoresizer runs"},
		},
	})
}

func TestStep(t *testing.T) {
	checkRules(t, []rule{
		{"from the capacity, not the request", func(s *subject) {
			s.setSize("12Gi", "10Gi", 12*gib)
		}, verdictGrow, 14 * gib, nil},
		{"rounded up", func(s *subject) { s.annotate(AnnotationIncrease, "1Mi") }, verdictGrow, 11 * gib, nil},
		{"quantity", func(s *subject) { s.annotate(AnnotationIncrease, "5Gi") }, verdictGrow, 15 * gib, nil},
		{"minimum", func(s *subject) { s.annotate(AnnotationMinStep, "20Gi") }, verdictGrow, 30 * gib, nil},
		{"up to the limit", func(s *subject) { s.annotate(AnnotationIncrease, "95Gi") }, verdictGrow, 100 * gib, nil},
		{"overflow", func(s *subject) {
			s.annotate(AnnotationIncrease, "9E")
			s.annotate(AnnotationMinStep, fmt.Sprint(int64(math.MaxInt64)))
			s.annotate(AnnotationLimit, fmt.Sprint(int64(math.MaxInt64)))
		}, verdictGrow, volume.Size(math.MaxInt64).RoundDown(gib), nil},
		{"limit between two GiB", func(s *subject) {
			s.annotate(AnnotationIncrease, "50%")
			s.annotate(AnnotationLimit, "12800Mi")
		}, verdictGrow, 12 * gib, nil},
		{"never less than minGrowth", func(s *subject) {
			s.setSize("10239Mi", "10239Mi", 10*gib-volume.MiB)
			s.annotate(AnnotationIncrease, "1Mi")
		}, verdictGrow, 11 * gib, nil},
	})
}

func TestLimit(t *testing.T) {
	checkRules(t, []rule{
		{
			"reached", func(s *subject) { s.annotate(AnnotationLimit, "10Gi") }, verdictLimit, 0,
			[]string{"500 MiB", "reached its limit of 10 GiB", "next step: raise the annotation"},
		},
		{"exceeded", func(s *subject) { s.annotate(AnnotationLimit, "5Gi") }, verdictLimit, 0, nil},
		{"less than a GiB above", func(s *subject) { s.annotate(AnnotationLimit, "11000Mi") }, verdictLimit, 0, nil},
		{"reached, with one reading", func(s *subject) {
			s.annotate(AnnotationLimit, "10Gi")
			s.readings = s.readings[:1]
		}, verdictLimit, 0, nil},
		{"reached, but free", func(s *subject) {
			s.annotate(AnnotationLimit, "10Gi")
			s.readings[0].usage.Available = 5 * gib
		}, verdictEnough, 0, nil},
		{"request at the limit, not grown yet", func(s *subject) {
			s.annotate(AnnotationLimit, "11Gi")
			s.setSize("10Gi", "11Gi", 10*gib)
		}, verdictResizing, 0, nil},
	})
}

func TestThreshold(t *testing.T) {
	ext := func(free int64) func(*subject) {
		return func(s *subject) {
			for i := range s.readings {
				u := &s.readings[i].usage
				u.Filesystem, u.Available, u.Inodes, u.InodesAvailable = "ext4", 5*gib, 1000, free
			}
		}
	}
	checkRules(t, []rule{
		{"enough", func(s *subject) { s.readings[0].usage.Available = 2 * gib }, verdictEnough, 0, nil},
		{"exactly the threshold", func(s *subject) {
			s.annotate(AnnotationThreshold, "500Mi")
		}, verdictEnough, 0, nil},
		{
			"size",
			func(s *subject) { s.annotate(AnnotationThreshold, "601Mi") },
			verdictGrow,
			11 * gib,
			[]string{"below 601 MiB"},
		},
		{"0%", func(s *subject) { s.annotate(AnnotationThreshold, "0%") }, verdictEnough, 0, nil},
		{"inodes", ext(99), verdictGrow, 11 * gib, []string{"99 of 1000 inodes free", "below 10 %"}},
		{"enough inodes", ext(100), verdictEnough, 0, nil},
		{"inodes of XFS", func(s *subject) {
			ext(0)(s)
			s.readings[0].usage.Filesystem = "xfs"
		}, verdictEnough, 0, nil},
		{"inodes not known", func(s *subject) {
			ext(0)(s)
			s.readings[0].usage.Inodes = 0
		}, verdictEnough, 0, nil},
		{"inodes off", func(s *subject) {
			ext(0)(s)
			s.annotate(AnnotationInodesThreshold, "0%")
		}, verdictEnough, 0, nil},
	})
}

func TestNoGrowthDuringAnother(t *testing.T) {
	checkRules(t, []rule{
		{
			"request above the capacity",
			func(s *subject) { s.setSize("10Gi", "20Gi", 10*gib) },
			verdictResizing,
			0,
			[]string{"from 10 GiB to 20 GiB"},
		},
		{
			"step",
			func(s *subject) { s.setStep(corev1.PersistentVolumeClaimNodeResizePending, "10Gi") },
			verdictResizing,
			0,
			nil,
		},
		{"condition", func(s *subject) {
			s.claim.Status.Conditions = []corev1.PersistentVolumeClaimCondition{
				{Type: corev1.PersistentVolumeClaimResizing, Status: corev1.ConditionTrue},
			}
		}, verdictResizing, 0, nil},
	})
}

func TestCooldown(t *testing.T) {
	record := func(s *subject) { s.setRecord(10*time.Minute, 9*gib, 10*gib, 9*gib, false) }
	checkRules(t, []rule{
		{"of the claim", func(s *subject) {
			record(s)
			s.annotate(AnnotationCooldown, "11m")
		}, verdictCooldown, 0, []string{"last grew at 11:50:00", "11m"}},
		{"over", func(s *subject) {
			record(s)
			s.annotate(AnnotationCooldown, "10m")
		}, verdictGrow, 11 * gib, nil},
		{"by default", func(s *subject) {
			record(s)
			s.cooldown = time.Hour
		}, verdictCooldown, 0, nil},
		{"never grown", func(s *subject) { s.cooldown = time.Hour }, verdictGrow, 11 * gib, nil},
		{"below 2 %", func(s *subject) {
			record(s)
			s.cooldown = time.Hour
			s.readings[0].usage.Available = 0
		}, verdictCooldown, 0, nil},
	})
}

func TestInfeasibleSize(t *testing.T) {
	infeasible := func(s *subject, request string, to volume.Size, isHalf bool) {
		s.setSize("10Gi", request, 10*gib)
		s.setRecord(time.Minute, 10*gib, to, 10*gib, isHalf)
		s.setStep(corev1.PersistentVolumeClaimControllerResizeInfeasible, request)
		s.claim.Status.Conditions = []corev1.PersistentVolumeClaimCondition{
			{Type: corev1.PersistentVolumeClaimControllerResizeError, Message: "the quota is used up"},
		}
	}
	checkRules(t, []rule{
		{
			"half a step", func(s *subject) { infeasible(s, "20Gi", 20*gib, false) }, verdictGrow, 15 * gib,
			[]string{"from 10 GiB to 20 GiB was refused as infeasible: the quota is used up", "15 GiB"},
		},
		{
			"once",
			func(s *subject) { infeasible(s, "15Gi", 15*gib, true) },
			verdictInfeasible,
			0,
			[]string{"the quota is used up"},
		},
		{"not of the operator", func(s *subject) { infeasible(s, "20Gi", 19*gib, false) }, verdictInfeasible, 0, nil},
		{"not smaller", func(s *subject) { infeasible(s, "11Gi", 11*gib, false) }, verdictInfeasible, 0, nil},
		{"no longer needed", func(s *subject) {
			infeasible(s, "20Gi", 20*gib, false)
			s.readings[0].usage.Available = 5 * gib
		}, verdictInfeasible, 0, nil},
		{"on the node", func(s *subject) {
			infeasible(s, "20Gi", 20*gib, false)
			s.setStep(corev1.PersistentVolumeClaimNodeResizeInfeasible, "20Gi")
		}, verdictInfeasible, 0, nil},
		{"of an earlier request", func(s *subject) {
			infeasible(s, "15Gi", 15*gib, true)
			s.setStep(corev1.PersistentVolumeClaimControllerResizeInfeasible, "20Gi")
		}, verdictResizing, 0, nil},
	})
}
