package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rancher/rke2/build/sign"
)

func newKeygen() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen [NAME]",
		Short: "Make a signing key pair: NAME.key and NAME.pub (default: cosign)",
		Long: `Makes an ECDSA P-256 key pair. The private half is in cosign's encrypted format, under
the passphrase in COSIGN_PASSWORD, or one that is asked for. Existing files are not
touched.`,
		Example: "  rke2-build keygen release",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "cosign"
			if len(args) > 0 {
				name = args[0]
			}
			pass, err := passphrase(cmd, true)
			if err != nil {
				return err
			}
			if err := sign.Generate(name+".key", name+".pub", pass); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s.key\n%s.pub\n", name, name)
			return nil
		},
	}
}

// passphrase is $COSIGN_PASSWORD, also if it is empty, or asked for on a terminal.
func passphrase(cmd *cobra.Command, twice bool) ([]byte, error) {
	if p, ok := os.LookupEnv("COSIGN_PASSWORD"); ok {
		return []byte(p), nil
	}
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil, errors.New("the signing key's passphrase is not known: set COSIGN_PASSWORD (empty for none)")
	}
	fmt.Fprint(cmd.ErrOrStderr(), "Passphrase of the signing key: ")
	p, err := term.ReadPassword(fd)
	fmt.Fprintln(cmd.ErrOrStderr())
	if err != nil {
		return nil, fmt.Errorf("reading the passphrase: %w", err)
	}
	if twice {
		fmt.Fprint(cmd.ErrOrStderr(), "Again: ")
		again, err := term.ReadPassword(fd)
		fmt.Fprintln(cmd.ErrOrStderr())
		if err != nil {
			return nil, fmt.Errorf("reading the passphrase: %w", err)
		}
		if !bytes.Equal(p, again) {
			return nil, errors.New("the passphrases differ")
		}
	}
	return p, nil
}
