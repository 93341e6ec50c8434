package fakecloud

// Call names the operation of a request: the verb and the resource. Requests are counted, delayed
// and disturbed by call.
type Call string

// The calls that the cloud knows.
const (
	AnyCall     Call = ""
	UnknownCall Call = "unknown" // a path or an action that no service has

	Discover    Call = "discover" // version documents
	CreateToken Call = "create token"
	GetToken    Call = "get token"
	RevokeToken Call = "revoke token"

	ListVolumes      Call = "list volumes" // IDs and names only
	ListVolumeDetail Call = "list volumes detail"
	GetVolume        Call = "get volume"
	CreateVolume     Call = "create volume"
	UpdateVolume     Call = "update volume"
	DeleteVolume     Call = "delete volume"
	GetMetadata      Call = "get volume metadata"
	SetMetadata      Call = "set volume metadata"
	DeleteMetadata   Call = "delete volume metadata"
	ExtendVolume     Call = "extend volume"
	RetypeVolume     Call = "retype volume"
	ResetStatus      Call = "reset volume status"

	ListTypes    Call = "list types"
	GetType      Call = "get type"
	ListZones    Call = "list zones"
	GetLimits    Call = "get limits"
	GetQuota     Call = "get quota"
	SetQuota     Call = "set quota"
	ListMessages Call = "list messages"
	GetMessage   Call = "get message"

	ListSnapshots      Call = "list snapshots"
	ListSnapshotDetail Call = "list snapshots detail"
	GetSnapshot        Call = "get snapshot"
	CreateSnapshot     Call = "create snapshot"
	DeleteSnapshot     Call = "delete snapshot"

	ListBackups      Call = "list backups"
	ListBackupDetail Call = "list backups detail"
	GetBackup        Call = "get backup"
	CreateBackup     Call = "create backup"
	UpdateBackup     Call = "update backup"
	RestoreBackup    Call = "restore backup"
	DeleteBackup     Call = "delete backup"

	ListAttachmentRecords  Call = "list attachment records" // those of Cinder
	GetAttachmentRecord    Call = "get attachment record"
	DeleteAttachmentRecord Call = "delete attachment record"

	GetServer       Call = "get server"
	ListServers     Call = "list servers"
	ChangeServer    Call = "change server" // lock and unlock
	DeleteServer    Call = "delete server"
	ListAttachments Call = "list attachments"
	GetAttachment   Call = "get attachment"
	AttachVolume    Call = "attach volume"
	DetachVolume    Call = "detach volume"
	SendEvents      Call = "send events"

	// GuestResize is not a request: it is the work of Nova and the guest after an event of Cinder. Its
	// Work latency is the time until the guest sees the new size. Any of the faults that change the
	// outcome, or EventLost, loses the event.
	GuestResize Call = "guest resize"
)
