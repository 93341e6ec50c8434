// Package csiserver serves the CSI services of a plugin on a socket: it listens, logs,
// measures, recovers from panics, converts error kinds into gRPC codes, and stops
// gracefully. It implements the Identity service and knows no other service and no
// backend.
//
// A plugin's main function calls Program.Main. The Program's Serve creates the services
// and ends with
//
//	options := flags.Options()
//	options.Log, options.Identity, options.Node = log, identity, nodeServer
//	options.Stopping = stopWatching    // ends what the plugin does besides its calls
//	return csiserver.Run(ctx, options) // after ctx is done and the running calls ended
//
// Handlers return errors of package volume (or a gRPC status, which is not changed) and
// log with the ...Context functions of slog: each record gets the request id of the
// call's context.
package csiserver
