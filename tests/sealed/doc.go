// Package sealed runs a real machine with no way out, on one Linux host and
// without a virtual machine: a process tree in namespaces, cgroups and a disk of
// its own, whose only network ends in a wire that nothing answers.
//
// A host is two processes of the calling binary, re-executed (see [Main]):
//
//   - the keeper lives outside, in an empty network namespace that is the far end
//     of the host's wire. It makes the cgroups, starts init, records every packet
//     that tries to leave, and clears up when init or the caller is gone, however
//     that came about;
//   - init is process 1 inside. It builds the file system, takes the wire,
//     runs commands for the caller over a socket and reaps orphans.
//
// A [Switch] joins hosts: their keepers then share its network namespace, and what
// they send each other goes through its bridge. Nothing else leaves a host.
//
// Nothing that a host needs has a name on the machine outside it except its
// cgroups and its state directory. Namespaces are made with clone flags, so they
// end with their last process; [Sweep] removes the cgroups and directories of
// runs that were killed together with their keeper.
package sealed
