package sealed

import "errors"

// ErrUnsupported is what every function of the package fails with, wrapped with
// the reason, where the machine can't hold a sealed host. Tests skip on it.
var ErrUnsupported = errors.New("sealed hosts need Linux and root")
