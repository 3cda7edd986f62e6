package serve

import (
	"bufio"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// Users are those of an htpasswd file with bcrypt hashes (htpasswd -B). It may be used
// from several goroutines.
type Users struct {
	path string
	key  []byte        // of the sums in known
	none []byte        // hash of a password that nobody has
	busy chan struct{} // bcrypt is made to be slow: not many at a time

	mu    sync.Mutex
	users map[string][]byte
	known map[string]string // users whose password was right, with a keyed sum of it
}

// maxUsers bounds the file that is read.
const maxUsers = 1 << 20

// LoadUsers reads an htpasswd file.
func LoadUsers(path string) (*Users, error) {
	u := &Users{path: path, key: make([]byte, 32), busy: make(chan struct{}, 2)}
	if _, err := rand.Read(u.key); err != nil {
		return nil, err
	}
	var err error
	if u.none, err = bcrypt.GenerateFromPassword(u.key, bcrypt.DefaultCost); err != nil {
		return nil, err
	}
	return u, u.Reload()
}

// Reload reads the file again. After an error those of before stay.
func (u *Users) Reload() error {
	info, err := os.Stat(u.path)
	if err != nil {
		return fmt.Errorf("reading users: %w", err)
	}
	if info.Size() > maxUsers {
		return fmt.Errorf("reading users: %s has more than %d bytes", u.path, maxUsers)
	}
	b, err := os.ReadFile(u.path)
	if err != nil {
		return fmt.Errorf("reading users: %w", err)
	}
	users := map[string][]byte{}
	sc := bufio.NewScanner(strings.NewReader(string(b)))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		user, hash, ok := strings.Cut(line, ":")
		if !ok || user == "" {
			return fmt.Errorf("reading users: line %d of %s is not USER:HASH", n, u.path)
		}
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return fmt.Errorf("reading users: line %d of %s: the hash of %q is not bcrypt: make it with htpasswd -B", n, u.path, user)
		}
		users[user] = []byte(hash)
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("reading users: %s: %w", u.path, err)
	}
	if len(users) == 0 {
		return fmt.Errorf("reading users: %s has none, and so nobody could pull", u.path)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.users, u.known = users, map[string]string{}
	return nil
}

// allowed tells who asks, if the password is right.
func (u *Users) allowed(r *http.Request) (string, bool) {
	user, password, ok := r.BasicAuth()
	if !ok {
		return "", false
	}
	// Clients send their password with each request: the slow sum is made once.
	mac := hmac.New(sha256.New, u.key)
	fmt.Fprintf(mac, "%d:%s%s", len(user), user, password)
	sum := string(mac.Sum(nil))
	u.mu.Lock()
	hash, exists := u.users[user]
	right := hmac.Equal([]byte(u.known[user]), []byte(sum))
	u.mu.Unlock()
	if right {
		return user, true
	}
	select {
	case u.busy <- struct{}{}:
	case <-r.Context().Done():
		return "", false
	}
	defer func() { <-u.busy }()
	if !exists { // takes as long as a wrong password
		hash = u.none
	}
	err := bcrypt.CompareHashAndPassword(hash, []byte(password))
	if !exists || err != nil {
		return "", false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if string(u.users[user]) == string(hash) { // not changed meanwhile
		u.known[user] = sum
	}
	return user, true
}
