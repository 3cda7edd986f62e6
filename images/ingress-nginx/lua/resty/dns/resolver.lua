-- Debian's package lua-nginx-dns has this module under another name.
return require("nginx.dns.resolver")
