// Package csiclient plays the container orchestrator of the CSI specification for
// tests, benchmarks and the demo: it starts the plugins, calls them in the order of
// Kubernetes, and writes checksummed data to their volumes meanwhile.
//
// Deploy starts both plugins with the loop backend and returns a Deployment. Its
// Driver takes a volume through its life:
//
//	d, err := csiclient.Deploy(ctx, csiclient.BinDir(), dir, log)
//	v, err := d.Create(ctx, "data", size, csiclient.MountCapability("ext4"), nil)
//	err = d.Use(ctx, v)                           // attach, stage, publish
//	w := csiclient.StartWriter(ctx, v.Target, maxBytes, pause)
//	e, err := d.Expand(ctx, v, 2*size)            // controller, then node
//	err = w.Stop()
//	n, err := w.Verify(v.Target)
//	err = d.Release(ctx, v)                       // unpublish, unstage, detach
//	err = d.Delete(ctx, v)
//
// Tests with another backend or another machine start a plugin with StartPlugin, or
// make a Driver from their own connections.
package csiclient
