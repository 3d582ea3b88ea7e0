say "$SCRIPT: $done_now done, $there there before, ${#failures[@]} failed, of $CELLS"
for failure in ${failures[@]+"${failures[@]}"}; do
  say "  $failure"
done
((${#failures[@]} == 0)) || say "Run it again to try those anew."
say "Bring the folder $results home, and merge: $MERGE"
((${#failures[@]} == 0))
