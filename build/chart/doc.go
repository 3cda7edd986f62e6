// Package chart packages the folders of charts into what the runtime image has of them:
// one HelmChart manifest (helm.cattle.io/v1) a chart, with the chart in it. Image
// references and appVersion are filled in from the declarations, custom resource
// definitions come from the modules that ship them, and a chart that has lint faults,
// does not render, or runs an image that it does not declare is an error. The same
// declarations and files give the same bytes.
package chart
