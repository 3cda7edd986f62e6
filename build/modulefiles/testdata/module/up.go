// Package up ships files beside its code.
package up
