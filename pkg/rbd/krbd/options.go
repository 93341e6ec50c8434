package krbd

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/volume"
)

// This file makes the options of a mapping (Linux, Documentation/admin-guide of rbd; rbd(8), "Kernel
// rbd (krbd) options").

const (
	// mountTimeout is how many seconds the kernel waits for the monitors; its default is 60.
	mountTimeout = 20
	// lockTimeout is how many seconds a mapping waits for the exclusive lock. The lock of a node that
	// has died takes 27 s. The kernel's default is to wait for ever.
	lockTimeout = 60
)

// Options that a class cannot set, with the reason.
func refusedOptions() map[string]string {
	const identity, mode = "the driver sets the identity of the client", "the access mode of the volume decides"
	return map[string]string{
		"name": identity, "secret": identity, "key": identity, "fsid": identity, "_pool_ns": identity,
		"ro": mode, "rw": mode, "read_only": mode, "read_write": mode,
		"exclusive": "it forbids the expansion of a volume in use, and its snapshots",
	}
}

// parseMapOptions returns the options of a class in the kernel's form. The text is "a,b=c", or
// ceph-csi's "krbd:a,b=c;nbd:d", of which the part for krbd counts. Kind Invalid.
func parseMapOptions(text string) ([]string, error) {
	var options []string
	for part := range strings.SplitSeq(text, ";") {
		mapper, list, hasMapper := strings.Cut(strings.TrimSpace(part), ":")
		switch {
		case !hasMapper || !regexp.MustCompile(`^[a-z]+$`).MatchString(mapper):
			list = strings.TrimSpace(part) // a colon may belong to an option: crush_location=host:a
		case mapper != "krbd":
			continue
		}
		for option := range strings.SplitSeq(list, ",") {
			if option = strings.TrimSpace(option); option != "" {
				options = append(options, option)
			}
		}
	}
	for _, option := range options {
		name, _, _ := strings.Cut(option, "=")
		reason, isRefused := refusedOptions()[name]
		if !isRefused && regexp.MustCompile(`^[a-z_0-9]+(=[A-Za-z0-9_.:|/\[\]-]+)?$`).MatchString(option) {
			continue
		}
		if !isRefused {
			reason = "an option is a name, or name=value"
		}
		return nil, volume.Errorf(volume.KindInvalid, "the map option %q is not possible: %s", option, reason).
			WithRemedy("correct mapOptions in spec.csi.volumeAttributes of the PersistentVolume, and in its StorageClass")
	}
	return options, nil
}

// checkCrushLocation returns an error unless the text is type:name[|type:name...].
func checkCrushLocation(text string) error {
	if regexp.MustCompile(`^[\w.-]+:[\w.-]+(\|[\w.-]+:[\w.-]+)*$`).MatchString(text) {
		return nil
	}
	return volume.Errorf(volume.KindInvalid, "the CRUSH location %q is not type:name[|type:name...]", text)
}

// mapRequest is one mapping to be made.
type mapRequest struct {
	target        target
	cluster       cluster.Cluster
	readOnly      bool
	options       []string // of the class
	crushLocation string   // of this node; empty: unknown
	keyName       string
	key           []byte // cephx's own encoding
}

// text returns what is written to the bus, without a line break: monitors, options, pool, image and
// snapshot. With noShare the mapping gets a client of its own. Kind Invalid.
func (r mapRequest) text(noShare bool) (string, error) {
	options := slices.Clone(r.options)
	set := func(option string) {
		name, _, _ := strings.Cut(option, "=")
		if !hasOption(options, name) {
			options = append(options, option)
		}
	}
	monitors, mode := r.monitors()
	if mode != "" {
		set("ms_mode=" + mode)
	}
	set(fmt.Sprintf("mount_timeout=%d", mountTimeout))
	set(fmt.Sprintf("lock_timeout=%d", lockTimeout))
	if r.crushLocation != "" && !hasOption(options, "read_from_replica") && !hasOption(options, "crush_location") {
		options = append(options, "read_from_replica=localize", "crush_location="+r.crushLocation)
	}
	if noShare {
		set("noshare")
	}
	if r.readOnly || r.target.snapshot != "" {
		options = append(options, "ro")
	}
	if r.target.namespace != "" {
		options = append(options, "_pool_ns="+r.target.namespace)
	}
	options = append(options, "name="+r.cluster.User, "key="+r.keyName)
	snapshot := r.target.snapshot
	if snapshot == "" {
		snapshot = "-"
	}
	fields := []string{strings.Join(monitors, ","), strings.Join(options, ","), r.target.pool, r.target.image, snapshot}
	for _, field := range fields {
		if field == "" || !isOneWord(field) {
			return "", volume.Errorf(volume.KindInvalid,
				"cannot map %s: %q has a blank or a control character, or is empty", r.target, field).
				WithRemedy("correct the monitors or the user of the Ceph cluster in the configuration of this node")
		}
	}
	if strings.Contains(r.cluster.User, ",") {
		return "", volume.Errorf(volume.KindInvalid, "the name of the Ceph user %q has a comma", r.cluster.User)
	}
	return strings.Join(fields, " "), nil
}

// monitors returns the monitors to connect to, and the mode of the protocol that they need; empty:
// the kernel's default, the first version. The first version is chosen where there is a choice, as
// every kernel knows it.
func (r mapRequest) monitors() (addresses []string, mode string) {
	first, second := r.cluster.KernelMonitors()
	requested := optionValue(r.options, "ms_mode")
	switch {
	case requested != "" && requested != "legacy" && len(second) > 0:
		return second, ""
	case len(first) > 0:
		return first, ""
	}
	return second, "prefer-crc"
}

func hasOption(options []string, name string) bool {
	return slices.ContainsFunc(options, func(o string) bool { return o == name || strings.HasPrefix(o, name+"=") })
}

func optionValue(options []string, name string) string {
	for _, option := range options {
		if value, ok := strings.CutPrefix(option, name+"="); ok {
			return value
		}
	}
	return ""
}
