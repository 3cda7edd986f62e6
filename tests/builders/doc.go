// Package builders holds the two builders to one result: every declared image, made by
// the program that ships, without a daemon and by BuildKit.
package builders
