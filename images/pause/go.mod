module github.com/rancher/rke2/images/pause

go 1.26.0

tool github.com/rancher/rke2/images/pause
