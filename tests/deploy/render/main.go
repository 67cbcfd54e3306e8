// Renders a chart as `helm template` does: render CHART RELEASE NAMESPACE KUBERNETES_VERSION [VALUES.yaml…], or a folder as
// `kubectl kustomize` does: render kustomize FOLDER.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func render(chartPath, release, namespace, version string, files []string) error {
	chart, err := loader.Load(chartPath)
	if err != nil {
		return err
	}
	values := map[string]interface{}{}
	for _, file := range files {
		more, err := chartutil.ReadValuesFile(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		// Later files win.
		values = chartutil.CoalesceTables(more, values)
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	parsed, err := chartutil.ParseKubeVersion(version)
	if err != nil {
		return err
	}
	capabilities.KubeVersion = *parsed
	options := chartutil.ReleaseOptions{Name: release, Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, values, options, capabilities)
	if err != nil {
		return err
	}
	rendered, err := engine.Render(chart, all)
	if err != nil {
		return err
	}
	paths := make([]string, 0, len(rendered))
	for path := range rendered {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	for _, path := range paths {
		if filepath.Base(path)[0] == '_' || strings.TrimSpace(rendered[path]) == "" {
			continue
		}
		if strings.HasSuffix(path, "NOTES.txt") {
			fmt.Fprint(os.Stderr, rendered[path])
			continue
		}
		fmt.Printf("---\n# Source: %s\n%s\n", path, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(rendered[path]), "---")))
	}
	return nil
}

func kustomize(folder string) error {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return err
	}
	text, err := resources.AsYaml()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "kustomize" {
		if err := kustomize(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: render CHART RELEASE NAMESPACE KUBERNETES_VERSION [VALUES.yaml…]")
		os.Exit(2)
	}
	if err := render(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
