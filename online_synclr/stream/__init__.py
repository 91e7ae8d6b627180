"""The only seam between generators and trainers: typed messages under credits."""
