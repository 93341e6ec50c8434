package openstack_test
import ("testing")
func testSpeed(t *testing.T, r *rig){}
func testSanity(t *testing.T, r *rig){}
