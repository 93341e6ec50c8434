package fakecloud

import "net/http"

// SetQuota sets the quota of the project csi.
func (c *Cloud) SetQuota(q Quota) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quota = q
}

// SetCapacity sets the capacity of the backend in GiB; 0 sets no limit. The scheduler refuses,
// after the answer, requests that exceed the capacity.
func (c *Cloud) SetCapacity(gib int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.capacity = gib
}

// usage is the part of the quota that objects use. A volume that is being extended counts with its
// new size.
type usage struct{ volumes, gigabytes, snapshots, backups, backupGigabytes int }

func (c *Cloud) computeUsage() usage {
	var u usage
	for _, v := range c.volumes {
		u.volumes++
		u.gigabytes += max(v.Size, v.targetSize)
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

// exceeds reports whether more exceeds the limit; a negative limit is none.
func exceeds(used, more, limit int) bool { return limit >= 0 && used+more > limit }

// checkQuota refuses a call that needs more volumes, snapshots or GiB than the quota leaves.
func (c *Cloud) checkQuota(volumes, snapshots, gib int) *reply {
	u := c.computeUsage()
	switch {
	case exceeds(u.gigabytes, gib, c.quota.Gigabytes):
		return overQuotaError("VolumeSizeExceedsAvailableQuota",
			"Requested volume or snapshot exceeds allowed gigabytes quota. Requested %dG, quota is %dG and %dG has been "+
				"consumed.", gib, c.quota.Gigabytes, u.gigabytes)
	case exceeds(u.volumes, volumes, c.quota.Volumes):
		return overQuotaError("VolumeLimitExceeded", "Maximum number of volumes allowed (%d) exceeded for quota 'volumes'.",
			c.quota.Volumes)
	case exceeds(u.snapshots, snapshots, c.quota.Snapshots):
		return overQuotaError("SnapshotLimitExceeded", "Maximum number of snapshots allowed (%d) exceeded", c.quota.Snapshots)
	}
	return nil
}

// checkVolumeSize refuses a volume that exceeds the limit for one volume.
func (c *Cloud) checkVolumeSize(gib int) *reply {
	if limit := c.quota.PerVolumeGigabytes; limit >= 0 && gib > limit {
		return overQuotaError("VolumeSizeExceedsLimit",
			"Requested volume size %dG is larger than maximum allowed limit %dG.", gib, limit)
	}
	return nil
}

// checkBackupQuota refuses a backup that exceeds the quota of backups.
func (c *Cloud) checkBackupQuota(gib int) *reply {
	u := c.computeUsage()
	switch {
	case exceeds(u.backupGigabytes, gib, c.quota.BackupGigabytes):
		return overQuotaError("VolumeBackupSizeExceedsAvailableQuota",
			"Requested backup exceeds allowed Backup gigabytes quota. Requested %dG, quota is %dG and %dG has been consumed.",
			gib, c.quota.BackupGigabytes, u.backupGigabytes)
	case exceeds(u.backups, 1, c.quota.Backups):
		return overQuotaError("BackupLimitExceeded", "Maximum number of backups allowed (%d) exceeded", c.quota.Backups)
	}
	return nil
}

func (c *Cloud) getLimits(*exchange) *reply {
	u, q := c.computeUsage(), c.quota
	return newReply(http.StatusOK, object{"limits": object{"rate": []any{}, "absolute": object{
		"maxTotalVolumes": q.Volumes, "maxTotalVolumeGigabytes": q.Gigabytes, "maxTotalSnapshots": q.Snapshots,
		"maxTotalBackups": q.Backups, "maxTotalBackupGigabytes": q.BackupGigabytes,
		"totalVolumesUsed": u.volumes, "totalGigabytesUsed": u.gigabytes, "totalSnapshotsUsed": u.snapshots,
		"totalBackupsUsed": u.backups, "totalBackupGigabytesUsed": u.backupGigabytes,
	}}})
}

// quotaField is one field of a quota set.
type quotaField struct {
	limit *int
	used  int
}

// quotaFields returns the limit and the usage of each field of a quota set.
func (c *Cloud) quotaFields() map[string]quotaField {
	u := c.computeUsage()
	return map[string]quotaField{
		"volumes": {&c.quota.Volumes, u.volumes}, "gigabytes": {&c.quota.Gigabytes, u.gigabytes},
		"snapshots":            {&c.quota.Snapshots, u.snapshots},
		"per_volume_gigabytes": {&c.quota.PerVolumeGigabytes, 0}, "backups": {&c.quota.Backups, u.backups},
		"backup_gigabytes": {&c.quota.BackupGigabytes, u.backupGigabytes},
	}
}

func (c *Cloud) getQuota(x *exchange) *reply {
	if !x.token.hasRole("admin") && x.values["of"] != x.token.projectID() {
		return forbiddenError("volume_extension:quotas:show")
	}
	set := object{"id": x.values["of"], "groups": 10}
	withUsage := isTrue(x.http.URL.Query().Get("usage"))
	if withUsage {
		set["groups"] = object{"limit": 10, "in_use": 0, "reserved": 0}
	}
	for k, f := range c.quotaFields() {
		set[k] = *f.limit
		if withUsage {
			set[k] = object{"limit": *f.limit, "in_use": f.used, "reserved": 0}
		}
	}
	return newReply(http.StatusOK, object{"quota_set": set})
}

func (c *Cloud) setQuota(x *exchange) *reply {
	if !x.token.hasRole("admin") {
		return forbiddenError("volume_extension:quotas:update")
	}
	in, set := objectReader{x.object("quota_set")}, object{"groups": 10}
	for k, f := range c.quotaFields() {
		if n, given, valid := in.number(k); given && valid {
			*f.limit = n
		}
		set[k] = *f.limit
	}
	return newReply(http.StatusOK, object{"quota_set": set})
}
