// Package scenarios has the tests that boot the product: what `make airgap` made,
// on a host with no way out. They share nodes, because a boot is most of a test's
// time: TestNode's parts run in order, on one node.
package scenarios
