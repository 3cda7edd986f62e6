-- Debian's package lua-nginx-cookie has this module under another name.
return require("nginx.cookie")
