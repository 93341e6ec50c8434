package filesystem

import (
	"testing"
	"unsafe"
)

// TestStructsHaveTheSizeOfTheIoctl: the kernel writes as many bytes as the ioctl's number
// says.
func TestStructsHaveTheSizeOfTheIoctl(t *testing.T) {
	for _, tc := range []struct {
		name    string
		request uint
		size    uintptr
	}{
		{"EXT4_IOC_RESIZE_FS", ext4IOCResizeFS, 8},
		{"XFS_IOC_FSGEOMETRY", xfsIOCFSGeometry, unsafe.Sizeof(xfsGeometry{})},
		{"XFS_IOC_FSGROWFSDATA", xfsIOCGrowFSData, unsafe.Sizeof(xfsGrowFSData{})},
		{"BTRFS_IOC_RESIZE", btrfsIOCResize, unsafe.Sizeof(btrfsVolArgs{})},
		{"BTRFS_IOC_DEV_INFO", btrfsIOCDevInfo, unsafe.Sizeof(btrfsDevInfoArgs{})},
		{"BTRFS_IOC_FS_INFO", btrfsIOCFSInfo, unsafe.Sizeof(btrfsInfo{})},
	} {
		if encoded := uintptr(tc.request >> 16 & 0x3FFF); encoded != tc.size {
			t.Errorf("%s: struct of %d bytes, the kernel expects %d", tc.name, tc.size, encoded)
		}
	}
}
