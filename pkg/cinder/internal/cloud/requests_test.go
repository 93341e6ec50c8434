package cloud

import (
	"slices"
	"strings"
	"testing"
)

// TestRequests checks what each call sends: method, address, microversion and body. Cinder and
// Nova give defaults to what is left out, and read what is not.
func TestRequests(t *testing.T) {
	k := newKeystone(t)
	clouds, err := k.clouds(t, "clouds.yaml", yamlHead)
	must(t, err)
	c, err := clouds.Cloud(t.Context(), "")
	must(t, err)
	ctx := t.Context()
	metadata := map[string]string{"k": "v"}
	oldest := "created_at%3Aasc%2Cid%3Aasc"
	for want, run := range map[string]func() error{
		"GET /v3/p1/volumes/v1": func() error { _, err := c.Volume(ctx, "v1"); return err },
		"GET /v3/p1/volumes/detail?sort=" + oldest: func() error {
			_, _, err := c.Volumes(ctx, VolumePage{})
			return err
		},
		"GET /v3/p1/volumes/detail?limit=7&marker=v1&metadata=%7B%27k%27%3A%27v%27%7D" +
			"&sort=updated_at%3Adesc%2Cid%3Aasc": func() error {
			_, _, err := c.Volumes(ctx, VolumePage{Marker: "v1", Limit: 7, Metadata: metadata, NewestChangeFirst: true})
			return err
		},
		"GET /v3/p1/volumes/detail?name=a%26b+%27c%27": func() error { _, err := c.VolumesNamed(ctx, "a&b 'c'"); return err },
		`POST /v3/p1/volumes {"volume":{"name":"n","size":2}}`: func() error {
			_, err := c.CreateVolume(ctx, NewVolume{Name: "n", Size: 2, SameHost: []string{}, Metadata: map[string]string{}})
			return err
		},
		`POST /v3/p1/volumes {"OS-SCH-HNT:scheduler_hints":{"different_host":["V-3"],"same_host":["v1","v2"]},` +
			`"volume":{"availability_zone":"z","description":"d","metadata":{"k":"v"},"name":"n","size":2,` +
			`"snapshot_id":"s1","source_volid":"v1","volume_type":"t"}}`: func() error {
			_, err := c.CreateVolume(ctx, NewVolume{
				Name: "n", Description: "d", Size: 2, VolumeType: "t", AvailabilityZone: "z", Metadata: metadata,
				SnapshotID: "s1", SourceVolID: "v1",
				SameHost: []string{"v1", "v2"}, DifferentHost: []string{"V-3"},
			})
			return err
		},
		`POST /v3/p1/volumes 3.47 {"volume":{"backup_id":"b1","name":"n","size":2}}`: func() error {
			_, err := c.CreateVolume(ctx, NewVolume{Name: "n", Size: 2, BackupID: "b1"})
			return err
		},
		"DELETE /v3/p1/volumes/v1": func() error { return c.DeleteVolume(ctx, "v1") },
		`POST /v3/p1/volumes/v1/action {"os-extend":{"new_size":3}}`: func() error {
			return c.ExtendVolume(ctx, "v1", 3, false)
		},
		`POST /v3/p1/volumes/v1/action 3.42 {"os-extend":{"new_size":3}}`: func() error {
			return c.ExtendVolume(ctx, "v1", 3, true)
		},
		`POST /v3/p1/volumes/v1/action {"os-retype":{"migration_policy":"never","new_type":"t"}}`: func() error {
			return c.Retype(ctx, "v1", "t", "never")
		},
		`POST /v3/p1/volumes/v1/metadata {"metadata":{"k":"v"}}`: func() error {
			return c.SetVolumeMetadata(ctx, "v1", metadata)
		},

		"GET /v3/p1/snapshots/s1": func() error { _, err := c.Snapshot(ctx, "s1"); return err },
		"GET /v3/p1/snapshots/detail?limit=7&marker=s1&sort=" + oldest + "&volume_id=v1": func() error {
			_, _, err := c.Snapshots(ctx, SnapshotPage{Marker: "s1", Limit: 7, VolumeID: "v1"})
			return err
		},
		"GET /v3/p1/snapshots/detail?name=n": func() error { _, err := c.SnapshotsNamed(ctx, "n"); return err },
		`POST /v3/p1/snapshots ` +
			`{"snapshot":{"description":"d","metadata":{"k":"v"},"name":"n","volume_id":"v1"}}`: func() error {
			_, err := c.CreateSnapshot(ctx, NewSnapshot{VolumeID: "v1", Name: "n", Description: "d", Metadata: metadata})
			return err
		},
		`POST /v3/p1/snapshots 3.66 {"snapshot":{"name":"n","volume_id":"v1"}}`: func() error {
			_, err := c.CreateSnapshot(ctx, NewSnapshot{VolumeID: "v1", Name: "n", Force: true})
			return err
		},
		"DELETE /v3/p1/snapshots/s1": func() error { return c.DeleteSnapshot(ctx, "s1") },

		"GET /v3/p1/backups/b1 3.43": func() error { _, err := c.Backup(ctx, "b1"); return err },
		"GET /v3/p1/backups/detail?limit=7&marker=b1&sort=" + oldest + "&volume_id=v1 3.43": func() error {
			_, _, err := c.Backups(ctx, BackupPage{Marker: "b1", Limit: 7, VolumeID: "v1"})
			return err
		},
		"GET /v3/p1/backups/detail?name=n 3.43": func() error { _, err := c.BackupsNamed(ctx, "n"); return err },
		`POST /v3/p1/backups 3.43 {"backup":{"description":"d","force":true,"incremental":true,"metadata":{"k":"v"},` +
			`"name":"n","snapshot_id":"s1","volume_id":"v1"}}`: func() error {
			_, err := c.CreateBackup(ctx, NewBackup{
				VolumeID: "v1", SnapshotID: "s1", Name: "n", Description: "d", Force: true, Incremental: true, Metadata: metadata,
			})
			return err
		},
		`POST /v3/p1/backups 3.51 ` +
			`{"backup":{"availability_zone":"z","metadata":{"k":"v"},"name":"n","volume_id":"v1"}}`: func() error {
			_, err := c.CreateBackup(ctx, NewBackup{VolumeID: "v1", Name: "n", AvailabilityZone: "z", Metadata: metadata})
			return err
		},
		"DELETE /v3/p1/backups/b1": func() error { return c.DeleteBackup(ctx, "b1") },
		`PUT /v3/p1/backups/b1 3.43 {"backup":{"metadata":{"k":"v"}}}`: func() error {
			return c.SetBackupMetadata(ctx, "b1", metadata)
		},

		"GET /v3/p1/attachments?volume_id=v1 3.27": func() error { _, err := c.AttachmentRecords(ctx, "v1"); return err },
		"DELETE /v3/p1/attachments/a1 3.27":        func() error { return c.DeleteAttachment(ctx, "a1") },
		"GET /v3/p1/messages?resource_uuid=v1&sort=created_at%3Adesc 3.5": func() error {
			_, err := c.Messages(ctx, "v1")
			return err
		},
		"GET /v3/p1/types?is_public=true": func() error { _, err := c.VolumeTypes(ctx); return err },
		"GET /v3/p1/types/default":        func() error { _, err := c.DefaultVolumeType(ctx); return err },
		"GET /v3/p1/limits":               func() error { _, err := c.Limits(ctx); return err },
		"GET /v3/p1/os-quota-sets/p1":     func() error { _, err := c.maxVolumeGiB(ctx); return err },
		"GET /v3/p1/os-availability-zone": func() error { _, err := c.Zones(ctx); return err },
		"GET /v2.1/servers/i1":            func() error { _, err := c.Server(ctx, "i1"); return err },
		"GET /v2.1/servers/i1/os-volume_attachments/v1": func() error {
			_, err := c.ServerAttachment(ctx, "i1", "v1")
			return err
		},
		`POST /v2.1/servers/i1/os-volume_attachments {"volumeAttachment":{"volumeId":"v1"}}`: func() error {
			return c.Attach(ctx, "i1", "v1", false)
		},
		`POST /v2.1/servers/i1/os-volume_attachments 2.60 {"volumeAttachment":{"volumeId":"v1"}}`: func() error {
			return c.Attach(ctx, "i1", "v1", true)
		},
		"DELETE /v2.1/servers/i1/os-volume_attachments/v1": func() error { return c.Detach(ctx, "i1", "v1") },
		`POST /v2.1/os-server-external-events 2.51 ` +
			`{"events":[{"name":"volume-extended","server_uuid":"i1","tag":"v1"}]}`: func() error {
			return c.NotifyExtended(ctx, "i1", "v1")
		},
	} {
		k.requests = nil
		_ = run() // the answer has nothing of the object
		sent := slices.DeleteFunc(k.requests, func(r string) bool { return r == "GET /v3/" || r == "GET /v2.1/" })
		if len(sent) != 1 || sent[0] != want {
			t.Errorf("the call sends\n\t%s\nwant\n\t%s", strings.Join(sent, "\n\t"), want)
		}
	}
}

// Clouds that are too old for a microversion refuse what it added.
func TestRequestsToOldClouds(t *testing.T) {
	k := newKeystone(t)
	k.version = `{"versions":[{"id":"v3.0","version":"3.42","min_version":"3.0"}]}`
	clouds, err := k.clouds(t, "clouds.yaml", yamlHead)
	must(t, err)
	c, err := clouds.Cloud(t.Context(), "")
	must(t, err)
	ctx := t.Context()
	for want, run := range map[string]func() error{
		`POST /v3/p1/snapshots {"snapshot":{"force":true,"name":"n","volume_id":"v1"}}`: func() error {
			_, err := c.CreateSnapshot(ctx, NewSnapshot{VolumeID: "v1", Name: "n", Force: true})
			return err
		},
		`POST /v3/p1/backups {"backup":{"name":"n","volume_id":"v1"}}`: func() error {
			_, err := c.CreateBackup(ctx, NewBackup{VolumeID: "v1", Name: "n", Metadata: map[string]string{"k": "v"}})
			return err
		},
		"GET /v3/p1/backups/b1": func() error { _, err := c.Backup(ctx, "b1"); return err },
		"GET /v3/p1/messages 3.3": func() error {
			k.version = strings.ReplaceAll(k.version, "3.42", "3.4")
			defer func() { k.version = strings.ReplaceAll(k.version, "3.4", "3.42") }()
			_, err := c.Messages(ctx, "v1")
			return err
		},
	} {
		k.requests = nil
		c.current().versions[blockStorage].set(versionRange{})
		_ = run() // the answer has nothing of the object
		if sent := k.requests[len(k.requests)-1]; sent != want {
			t.Errorf("the call sends\n\t%s\nwant\n\t%s", sent, want)
		}
	}
}
