package cloud

import (
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// rule says what an answer means. An empty condition holds always.
type rule struct {
	status int
	upTo   int      // status is the first of a range that ends here; 0: just status
	calls  []string // names of calls
	texts  []string // one of them is in the message (lower case; SERVER stands for the server of the call)
	later  bool     // the answer says when to come again
	doubt  bool     // an earlier attempt may have been carried out
	gone   bool     // the service says that an object of the call does not exist
	noType bool     // the service says that the volume type does not exist
	alien  bool     // OpenStack did not write the answer: a proxy did, or it is another server altogether
	kind   volume.Kind
	remedy string
}

func (r rule) fits(k call, a *answer) bool {
	if a.status < r.status || a.status > max(r.status, r.upTo) {
		return false
	}
	if !r.fitsAnswer(a) {
		return false
	}
	if len(r.calls) > 0 && !slices.Contains(r.calls, k.name) {
		return false
	}
	message := strings.ToLower(a.message)
	return len(r.texts) == 0 || slices.ContainsFunc(r.texts, func(text string) bool {
		for part := range strings.SplitSeq(text, " … ") {
			if part == "SERVER" {
				part = strings.ToLower(k.server)
			}
			if !strings.Contains(message, part) {
				return false
			}
		}
		return true
	})
}

// fitsAnswer reports whether the answer has each quality that the rule wants.
func (r rule) fitsAnswer(a *answer) bool {
	return (!r.gone || a.missing != "") && (!r.noType || a.noType) &&
		(!r.later || a.later > 0) && (!r.doubt || a.doubt) && (!r.alien || a.message == "")
}

// remedyEndpoint is for answers that do not come from the service that was
// asked, or not from its API.
const remedyEndpoint = "check that the endpoint of the service in the catalog of the cloud, and each load balancer and proxy on the way, leads to that service"

// rules is the table of what answers mean, the special before the general. The
// texts are those of Cinder and Nova from Pike to 2026; none decides about data:
// where a cloud words it differently, the general rule of the status holds. What
// does not exist is told by its id in the service's own fault (see answer.missing),
// never by a text, which may be translated, or by the status, which any server
// on the way may send.
func rules() []rule {
	const (
		askLess  = "ask for less, delete volumes that are not needed, or have the project's quota raised"
		askRole  = "give the user of the cloud's credentials a role that the policy of the cloud allows to do this"
		askCloud = "it will be retried; if it lasts, give the request id to the operator of the cloud"
	)
	changes := []string{"volume_extend", "volume_retype", "snapshot_create", "backup_create", "volume_metadata"}
	removals := []string{"volume_delete", "snapshot_delete", "backup_delete"}
	attach, login := []string{"volume_attach"}, []string{"token_create"}
	return []rule{
		// Logging in. What Keystone does not find is never a volume.
		{status: 401, calls: login, kind: volume.KindUnauthenticated, remedy: "correct the credentials; the file is read again without a restart"},
		{status: 403, calls: login, kind: volume.KindUnauthenticated, remedy: "correct the credentials; the file is read again without a restart"},
		{status: 300, upTo: 499, calls: login, kind: volume.KindUnavailable, remedy: "check auth-url (auth_url), project and domain"},
		// An answer that no OpenStack service wrote says nothing about volumes.
		{status: 200, upTo: 299, kind: volume.KindUnavailable, remedy: remedyEndpoint},
		{status: 300, upTo: 399, kind: volume.KindUnavailable, remedy: "have the endpoint in the catalog of the cloud corrected, or override it in clouds.yaml"},
		{status: 400, alien: true, kind: volume.KindUnavailable, remedy: askCloud},
		// What does not exist, if the service says so of this object.
		{status: 404, gone: true, kind: volume.KindNotFound},
		{status: 404, noType: true, kind: volume.KindInvalid, remedy: "correct the name of the volume type in the class"},
		{status: 404, kind: volume.KindUnavailable, remedy: remedyEndpoint},
		{status: 410, gone: true, kind: volume.KindNotFound},
		{status: 410, kind: volume.KindUnavailable, remedy: remedyEndpoint},
		{status: 402, upTo: 412, alien: true, kind: volume.KindUnavailable, remedy: remedyEndpoint},
		// The refusal of a deletion that may be under way already.
		{status: 400, calls: append([]string{"volume_detach"}, removals...), doubt: true, kind: volume.KindInProgress},

		// Attaching.
		{status: 400, calls: attach, texts: []string{"is already attached to instances … SERVER"}, kind: volume.KindAlreadyExists},
		{status: 400, calls: attach, texts: []string{"is already attached to instances"}, kind: volume.KindPrecondition, remedy: "wait until the other node has let go of the volume"},
		{status: 400, calls: attach, texts: []string{"already attached"}, kind: volume.KindAlreadyExists},
		{status: 400, calls: attach, kind: volume.KindPrecondition, remedy: "see which server holds the volume, and in which state it is"},
		{status: 403, calls: attach, texts: []string{"maximum allowed number of disk devices", "no more device", "no free pci", "too many"}, kind: volume.KindExhausted, remedy: "move pods with volumes to other nodes, or lower the node's attach limit"},
		{status: 400, calls: []string{"volume_detach"}, kind: volume.KindPrecondition},

		// Sizes that cannot be had.
		{status: 400, texts: []string{"less than the minimum required size", "greater than the maximum allowable size", "cannot be smaller than"}, kind: volume.KindOutOfRange, remedy: "ask for a size that the volume type allows"},
		{status: 413, later: true, kind: volume.KindUnavailable, remedy: askCloud},
		{status: 413, kind: volume.KindOutOfRange, remedy: askLess},
		{status: 403, texts: []string{"quota exceeded", "exceeds"}, kind: volume.KindOutOfRange, remedy: askLess},

		// States that forbid what was asked.
		{status: 400, calls: removals, kind: volume.KindPrecondition, remedy: "see what still uses it: attachments, snapshots, clones, incremental backups"},
		{status: 400, calls: changes, texts: []string{"status must be", "must be available", "maintenance", "is migrating", "not allowed for volumes in", "currently has a status"}, kind: volume.KindInProgress, remedy: "it will be retried; see the state of the volume if it lasts"},

		{status: 400, calls: []string{"volume_create"}, texts: []string{"originating … status must be"}, kind: volume.KindInProgress, remedy: "no action needed: Kubernetes retries this automatically; if it lasts, check the state of the source"},

		// What the status alone says.
		{status: 401, kind: volume.KindUnauthenticated, remedy: "check the credentials of the cloud; a new file is read without a restart"},
		{status: 403, kind: volume.KindDenied, remedy: askRole},
		{status: 405, kind: volume.KindUnsupported},
		{status: 406, kind: volume.KindPrecondition, remedy: "it will be asked for its versions anew; nothing needs to be done unless this lasts"},
		{status: 408, kind: volume.KindUnavailable, remedy: askCloud},
		{status: 409, kind: volume.KindInProgress},
		{status: 429, kind: volume.KindUnavailable, remedy: askCloud},
		{status: 498, kind: volume.KindUnavailable, remedy: askCloud},
		{status: 400, upTo: 499, kind: volume.KindInvalid},
		{status: 500, upTo: 599, kind: volume.KindUnavailable, remedy: askCloud},
	}
}
