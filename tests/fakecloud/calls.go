package fakecloud

// Call names what a request does: the verb and the resource. Requests are
// counted, delayed and disturbed by it.
type Call string

// The calls.
const (
	AnyCall Call = ""
	Unknown Call = "unknown" // a path or action that no service knows

	Discover    Call = "discover" // version documents
	CreateToken Call = "create token"
	GetToken    Call = "get token"
	RevokeToken Call = "revoke token"

	ListVolumes      Call = "list volumes" // names only
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

	ListTypes  Call = "list types"
	GetType    Call = "get type"
	ListZones  Call = "list zones"
	GetLimits  Call = "get limits"
	GetQuota   Call = "get quota"
	SetQuota   Call = "set quota"
	ListMsgs   Call = "list messages"
	GetMessage Call = "get message"

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

	ListRecords  Call = "list attachment records" // of Cinder
	GetRecord    Call = "get attachment record"
	DeleteRecord Call = "delete attachment record"

	GetServer       Call = "get server"
	ListServers     Call = "list servers"
	ChangeServer    Call = "change server" // lock and unlock
	DeleteServer    Call = "delete server"
	ListAttachments Call = "list attachments"
	GetAttachment   Call = "get attachment"
	AttachVolume    Call = "attach volume"
	DetachVolume    Call = "detach volume"
	SendEvents      Call = "send events"

	// GuestResize is no request: it is Nova and the guest after an event. Its
	// Done latency is the time until the guest sees the new size, and a fault
	// on it loses the event.
	GuestResize Call = "guest resize"
)
