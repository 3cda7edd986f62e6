module github.com/rancher/rke2/images/echo

go 1.26.0

tool github.com/rancher/rke2/images/echo
