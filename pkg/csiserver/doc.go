// Package csiserver serves CSI services on a socket: it listens, logs,
// measures, recovers from panics, turns kinds of error into gRPC codes, and
// stops gracefully. It knows no service beyond Identity and no backend.
//
// A plugin's main does this:
//
//	flags := csiserver.Flags{Endpoint: "unix:///csi/csi.sock"} // the defaults
//	flags.Register(fs)                                          // then fs.Parse(args)
//	log, err := flags.Logger(stderr)                            // slog, klog bridged into it
//	identity, err := csiserver.NewIdentity(name, csiserver.Version(), csiserver.Capabilities{Expansion: true}, probe)
//	options := flags.Options()
//	options.Log, options.Identity, options.Node = log, identity, nodeServer
//	err = csiserver.Run(ctx, options) // returns after ctx is done and the running calls ended
//
// Handlers return errors of package volume (or a gRPC status, which passes
// unchanged) and log with the ...Context functions of slog: the request id
// that the call's context carries is added to each record.
package csiserver
