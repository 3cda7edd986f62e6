package sign

import (
	"sort"

	"github.com/sigstore/sigstore/pkg/signature/kms"
	// The key management services that cosign has built in. Any other is reached
	// through its sigstore-kms-NAME plug-in program.
	_ "github.com/sigstore/sigstore/pkg/signature/kms/aws"
	_ "github.com/sigstore/sigstore/pkg/signature/kms/azure"
	_ "github.com/sigstore/sigstore/pkg/signature/kms/gcp"
	_ "github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
)

// builtIn lists the URI schemes of these services.
func builtIn() []string {
	schemes := kms.SupportedProviders()
	sort.Strings(schemes)
	return schemes
}
