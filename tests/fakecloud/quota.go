package fakecloud

import "net/http"

// SetQuota replaces the quota of the project csi.
func (c *Cloud) SetQuota(q Quota) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quota = q
}

// SetCapacity bounds the backend to this many GiB; 0 lifts the bound. What
// does not fit is refused by the scheduler, after the answer.
func (c *Cloud) SetCapacity(gib int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.capacity = gib
}

// usage is what a project has: of a volume being extended the size it is to
// get counts.
type usage struct{ volumes, gigabytes, snapshots, backups, backupGigabytes int }

func (c *Cloud) used() usage {
	var u usage
	for _, v := range c.volumes {
		u.volumes++
		u.gigabytes += max(v.Size, v.target)
	}
	for _, s := range c.snapshots {
		u.snapshots++
		u.gigabytes += s.Size
	}
	for _, b := range c.backups {
		u.backups++
		u.backupGigabytes += b.Size
	}
	return u
}

func exceeds(used, more, limit int) bool { return limit >= 0 && used+more > limit }

// allow checks the quota for more volumes, snapshots and GiB of one call.
func (c *Cloud) allow(volumes, snapshots, gib int) *reply {
	u := c.used()
	switch {
	case exceeds(u.gigabytes, gib, c.quota.Gigabytes):
		return overQuota("VolumeSizeExceedsAvailableQuota",
			"Requested volume or snapshot exceeds allowed gigabytes quota. Requested %dG, quota is %dG and %dG has been consumed.", gib, c.quota.Gigabytes, u.gigabytes)
	case exceeds(u.volumes, volumes, c.quota.Volumes):
		return overQuota("VolumeLimitExceeded", "Maximum number of volumes allowed (%d) exceeded for quota 'volumes'.", c.quota.Volumes)
	case exceeds(u.snapshots, snapshots, c.quota.Snapshots):
		return overQuota("SnapshotLimitExceeded", "Maximum number of snapshots allowed (%d) exceeded", c.quota.Snapshots)
	}
	return nil
}

func (c *Cloud) allowSize(gib int) *reply {
	if limit := c.quota.PerVolumeGigabytes; limit >= 0 && gib > limit {
		return overQuota("VolumeSizeExceedsLimit", "Requested volume size %dG is larger than maximum allowed limit %dG.", gib, limit)
	}
	return nil
}

func (c *Cloud) allowBackup(gib int) *reply {
	u := c.used()
	switch {
	case exceeds(u.backupGigabytes, gib, c.quota.BackupGigabytes):
		return overQuota("VolumeBackupSizeExceedsAvailableQuota",
			"Requested backup exceeds allowed Backup gigabytes quota. Requested %dG, quota is %dG and %dG has been consumed.", gib, c.quota.BackupGigabytes, u.backupGigabytes)
	case exceeds(u.backups, 1, c.quota.Backups):
		return overQuota("BackupLimitExceeded", "Maximum number of backups allowed (%d) exceeded", c.quota.Backups)
	}
	return nil
}

func (c *Cloud) getLimits(*exchange) *reply {
	u, q := c.used(), c.quota
	return answer(http.StatusOK, object{"limits": object{"rate": []any{}, "absolute": object{
		"maxTotalVolumes": q.Volumes, "maxTotalVolumeGigabytes": q.Gigabytes, "maxTotalSnapshots": q.Snapshots,
		"maxTotalBackups": q.Backups, "maxTotalBackupGigabytes": q.BackupGigabytes,
		"totalVolumesUsed": u.volumes, "totalGigabytesUsed": u.gigabytes, "totalSnapshotsUsed": u.snapshots,
		"totalBackupsUsed": u.backups, "totalBackupGigabytesUsed": u.backupGigabytes,
	}}})
}

// quotaFields are the names of the quota set with the limit and what is used.
func (c *Cloud) quotaFields() map[string]struct {
	limit *int
	used  int
} {
	u := c.used()
	return map[string]struct {
		limit *int
		used  int
	}{
		"volumes": {&c.quota.Volumes, u.volumes}, "gigabytes": {&c.quota.Gigabytes, u.gigabytes}, "snapshots": {&c.quota.Snapshots, u.snapshots},
		"per_volume_gigabytes": {&c.quota.PerVolumeGigabytes, 0}, "backups": {&c.quota.Backups, u.backups},
		"backup_gigabytes": {&c.quota.BackupGigabytes, u.backupGigabytes},
	}
}

func (c *Cloud) getQuota(x *exchange) *reply {
	if !x.token.has("admin") && x.values["of"] != x.token.projectID() {
		return forbidden("volume_extension:quotas:show")
	}
	set := object{"id": x.values["of"], "groups": 10}
	usage := trueText(x.http.URL.Query().Get("usage"))
	if usage {
		set["groups"] = object{"limit": 10, "in_use": 0, "reserved": 0}
	}
	for k, f := range c.quotaFields() {
		set[k] = *f.limit
		if usage {
			set[k] = object{"limit": *f.limit, "in_use": f.used, "reserved": 0}
		}
	}
	return answer(http.StatusOK, object{"quota_set": set})
}

func (c *Cloud) putQuota(x *exchange) *reply {
	if !x.token.has("admin") {
		return forbidden("volume_extension:quotas:update")
	}
	in, set := objectReader{x.part("quota_set")}, object{"groups": 10}
	for k, f := range c.quotaFields() {
		if n, given, valid := in.number(k); given && valid {
			*f.limit = n
		}
		set[k] = *f.limit
	}
	return answer(http.StatusOK, object{"quota_set": set})
}
