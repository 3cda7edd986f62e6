// Package fake makes what tests need and real operations have: signing keys of
// operators and strangers, images, and stores of images that are right or wrong in
// a chosen way.
package fake
