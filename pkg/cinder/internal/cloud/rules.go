package cloud

import (
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// rule gives the kind and remedy of the answers that match its conditions. A zero condition is
// always fulfilled.
type rule struct {
	status    int
	maxStatus int      // status is the first of a range that ends here; 0: just status
	calls     []string // names of calls
	texts     []string // one of them is in the message (lower case); see hasText

	hasRetryAfter   bool // the answer says when to try again
	hasLostAttempt  bool // an earlier attempt may have been carried out
	isObjectMissing bool // the service says that an object of the call does not exist
	isTypeMissing   bool // the service says that the volume type does not exist
	isForeign       bool // OpenStack did not write the answer: a proxy or another server did

	kind   volume.Kind
	remedy string
}

// matches reports whether the rule is about this answer to the call.
func (r rule) matches(a *answer) bool {
	switch {
	case a.status < r.status, a.status > max(r.status, r.maxStatus),
		len(r.calls) > 0 && !slices.Contains(r.calls, a.name),
		r.hasRetryAfter && a.retryAfter <= 0, r.hasLostAttempt && !a.hasLostAttempt,
		r.isObjectMissing && a.missingID == "", r.isTypeMissing && !a.isTypeMissing,
		r.isForeign && a.message != "":
		return false
	}
	return len(r.texts) == 0 || slices.ContainsFunc(r.texts, a.hasText)
}

// hasText reports whether the message has all parts of text, which " … " separates.
// SERVER stands for the id of the call's server.
func (a *answer) hasText(text string) bool {
	for part := range strings.SplitSeq(text, " … ") {
		if part == "SERVER" {
			part = strings.ToLower(a.objects[0].id) // the call is about a server and a volume
		}
		if !strings.Contains(strings.ToLower(a.message), part) {
			return false
		}
	}
	return true
}

// Remedies that several rules have.
const (
	checkEndpoint = "check that the endpoint of the service in the catalog of the cloud, " +
		"and each load balancer and proxy on the way, leads to that service"
	fixCredentials = "correct the credentials; the file is read again without a restart"
	askLess        = "request less, delete volumes that are not needed, or have the project's quota raised"
	askRole        = "give the user of the cloud's credentials a role that the policy of the cloud allows to do this"
	askOperator    = "no action needed: Kubernetes retries this automatically; " +
		"if the error persists, give the request id to the operator of the cloud"
)

// rules returns the table that gives answers their kind; special rules stand before general ones.
// The texts are those of Cinder and Nova from Pike to 2026. A cloud can word or translate a message
// differently: then the general rule of the status applies, which never endangers data. A missing
// object is recognized by its id in the fault of the service (see readMissing), not by a text.
func rules() []rule {
	return slices.Concat(loginRules(), missingRules(), attachRules(), stateRules(), statusRules())
}

// loginRules are about Keystone, whose 404 is never about a volume.
func loginRules() []rule {
	login := []string{"token_create"}
	return []rule{
		{status: 401, calls: login, kind: volume.KindUnauthenticated, remedy: fixCredentials},
		{status: 403, calls: login, kind: volume.KindUnauthenticated, remedy: fixCredentials},
		{
			status: 300, maxStatus: 499, calls: login, kind: volume.KindUnavailable,
			remedy: "check auth-url (auth_url), project and domain",
		},
	}
}

// removals returns the calls that delete something.
func removals() []string { return []string{"volume_delete", "snapshot_delete", "backup_delete"} }

// missingRules are about missing objects, and about answers that no OpenStack service wrote, which
// prove nothing about volumes.
func missingRules() []rule {
	return []rule{
		{status: 200, maxStatus: 299, kind: volume.KindUnavailable, remedy: checkEndpoint},
		{
			status: 300, maxStatus: 399, kind: volume.KindUnavailable,
			remedy: "have the endpoint in the catalog of the cloud corrected, or override it in clouds.yaml",
		},
		{status: 400, isForeign: true, kind: volume.KindUnavailable, remedy: askOperator},
		// The service names the object or the volume type that does not exist.
		{status: 404, maxStatus: 410, isObjectMissing: true, kind: volume.KindNotFound},
		{
			status: 404, isTypeMissing: true, kind: volume.KindInvalid,
			remedy: "correct the name of the volume type in the StorageClass",
		},
		{status: 404, kind: volume.KindUnavailable, remedy: checkEndpoint},
		{status: 410, kind: volume.KindUnavailable, remedy: checkEndpoint},
		{status: 402, maxStatus: 412, isForeign: true, kind: volume.KindUnavailable, remedy: checkEndpoint},
		// The deletion may be in progress already, because of the earlier attempt.
		{status: 400, calls: append(removals(), "volume_detach"), hasLostAttempt: true, kind: volume.KindInProgress},
	}
}

// attachRules are about attaching and detaching.
func attachRules() []rule {
	attach := []string{"volume_attach"}
	return []rule{
		{
			status: 400, calls: attach, kind: volume.KindAlreadyExists,
			texts: []string{"is already attached to instances … SERVER"},
		},
		{
			status: 400, calls: attach, kind: volume.KindPrecondition,
			texts:  []string{"is already attached to instances"},
			remedy: "wait until the volume is detached from the other node",
		},
		{status: 400, calls: attach, kind: volume.KindAlreadyExists, texts: []string{"already attached"}},
		{
			status: 400, calls: attach, kind: volume.KindPrecondition,
			remedy: "check the status of the volume, and which server it is attached to",
		},
		{
			status: 403, calls: attach, kind: volume.KindExhausted,
			texts: []string{
				"maximum allowed number of disk devices", "no more device", "no free pci", "too many",
			},
			remedy: "move pods with volumes to other nodes, or lower the node's attach limit",
		},
		{status: 400, calls: []string{"volume_detach"}, kind: volume.KindPrecondition},
	}
}

// stateRules are about sizes and quotas that a request exceeds, and states that forbid it.
func stateRules() []rule {
	changes := []string{"volume_extend", "volume_retype", "snapshot_create", "backup_create", "volume_metadata"}
	return []rule{
		{
			status: 400, kind: volume.KindOutOfRange,
			texts: []string{
				"less than the minimum required size", "greater than the maximum allowable size",
				"cannot be smaller than",
			},
			remedy: "request a size that the volume type allows",
		},
		{status: 413, hasRetryAfter: true, kind: volume.KindUnavailable, remedy: askOperator},
		{status: 413, kind: volume.KindOutOfRange, remedy: askLess},
		{status: 403, kind: volume.KindOutOfRange, texts: []string{"quota exceeded", "exceeds"}, remedy: askLess},
		{
			status: 400, calls: removals(), kind: volume.KindPrecondition,
			remedy: "check what still uses it: attachments, snapshots, clones, incremental backups",
		},
		{
			status: 400, calls: changes, kind: volume.KindInProgress,
			texts: []string{
				"status must be", "must be available", "maintenance", "is migrating", "not allowed for volumes in",
				"currently has a status",
			},
			remedy: "no action needed: Kubernetes retries this automatically; " +
				"if the error persists, check the status of the volume",
		},
		{
			status: 400, calls: []string{"volume_create"}, kind: volume.KindInProgress,
			texts: []string{"originating … status must be"},
			remedy: "no action needed: Kubernetes retries this automatically; " +
				"if the error persists, check the status of the source",
		},
	}
}

// statusRules depend on the status alone.
func statusRules() []rule {
	return []rule{
		{
			status: 401, kind: volume.KindUnauthenticated,
			remedy: "check the credentials of the cloud; a new file is read without a restart",
		},
		{status: 403, kind: volume.KindDenied, remedy: askRole},
		{status: 405, kind: volume.KindUnsupported},
		{
			status: 406, kind: volume.KindPrecondition,
			remedy: "no action needed: the next call reads the versions of the service again",
		},
		{status: 408, kind: volume.KindUnavailable, remedy: askOperator},
		{status: 409, kind: volume.KindInProgress},
		{status: 429, kind: volume.KindUnavailable, remedy: askOperator},
		{status: 498, kind: volume.KindUnavailable, remedy: askOperator},
		{status: 400, maxStatus: 499, kind: volume.KindInvalid},
		{status: 500, maxStatus: 599, kind: volume.KindUnavailable, remedy: askOperator},
	}
}
